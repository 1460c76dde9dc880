"""``vramplan calibrate``: reports folded, shown and forgotten; measuring needs a GPU and says so."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_device, make_plan, write_run
from vramplan.executor import calibrate_cli, calibrating
from vramplan.executor.evidence import Evidence, write_report
from vramplan.executor.launcher import Run
from vramplan.executor.phases import Peak
from vramplan.planner.adapters import calibration_files
from vramplan.planner.adapters.calibration_files import read_observations
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.calibration import ENOUGH, Observation
from vramplan.planner.cli.main import run_command
from vramplan.planner.device import Device
from vramplan.planner.errors import ExitCode
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.resolve import resolve
from vramplan.planner.units import GIB, MIB

CARD = "NVIDIA A10"


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_files, "calibration_folder", lambda: tmp_path / "calibration")
    monkeypatch.setattr(calibrate_cli, "calibration_folder", lambda: tmp_path / "calibration")


def reported(plan: Plan, **changes: Any) -> RunReport:
    shape = {"sequence_length": plan.workload.sequence_length, "micro_batch_size": plan.setup.micro_batch_size}
    evidence = Evidence(plan, environment={"gpu": CARD}, measured_shape=shape, outside_bytes=500 * MIB)
    evidence.peaks = {"optimizer_step": Peak(allocated_bytes=1010, reserved_bytes=1010)}
    return evidence.report("done").model_copy(update=changes)


def test_reports_are_folded_shown_and_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(tmp_path, device=make_device(kind="cuda", name=CARD))
    write_run(plan, tmp_path / "run")
    write_report(reported(plan), tmp_path / "run")
    assert run_command(["calibrate", "--from", str(tmp_path / "run"), "--json"]) == ExitCode.OK
    told = json.loads(capsys.readouterr().out)["devices"][0]
    assert told["device"] == CARD
    assert told["figures"]["context_bytes"] == 500 * MIB
    assert told["observations"][0]["dynamic_excess"] == pytest.approx(10 / 100)  # the plan: 1000 bytes, none dynamic
    again = ["calibrate", "--from", str(tmp_path / "run" / "report.json")]
    assert run_command(again) == ExitCode.OK
    assert "1 plan run" in capsys.readouterr().out
    assert run_command(["calibrate", "--show", "--device", "a10"]) == ExitCode.OK
    assert "500.00 MiB, up to 700.00 MiB" in capsys.readouterr().out
    assert run_command(["calibrate", "--reset"]) == ExitCode.OK
    assert read_observations(CARD) == ()
    assert run_command(["calibrate", "--show"]) == ExitCode.OK
    assert capsys.readouterr().out == ""


def test_what_tells_nothing_or_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(tmp_path)
    write_run(plan, tmp_path / "run")
    write_report(reported(plan, environment={"device": "cpu"}), tmp_path / "run")
    assert run_command(["calibrate", "--from", str(tmp_path / "run")]) == ExitCode.FAILED
    assert "tells nothing about a GPU" in capsys.readouterr().err
    assert run_command(["calibrate", "--from", str(tmp_path)]) == ExitCode.USAGE
    assert run_command(["calibrate", "--show", "--device", "H100"]) == ExitCode.USAGE


def test_without_a_gpu_it_says_what_can_be_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibrate_cli, "resolve_device", lambda *args, **options: (None, "none"))
    assert run_command(["calibrate"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "no CUDA device here" in said
    assert "vramplan calibrate --from RUN" in said


def test_a_finished_run_on_a_gpu_is_remembered_by_itself(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, device=make_device(kind="cuda", name=CARD))
    plan_path = write_run(plan, tmp_path / "run")
    write_report(reported(plan), tmp_path / "run")
    said = """import json; print(json.dumps({"event": "finished", "time": 0.0, "report": "report.json"}))"""
    list(Run(plan_path, command=[sys.executable, "-c", said]).events())
    assert [each.context_bytes for each in read_observations(CARD)] == [500 * MIB]


def test_cells_are_measured_one_after_the_other_and_a_bad_one_costs_no_other(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, device=make_device(kind="cuda", name=CARD))
    good = json.dumps({"plan": plan.model_dump(mode="json"), "report": reported(plan).model_dump(mode="json")})
    script = tmp_path / "cell.py"
    script.write_text(
        "import json, sys\n"
        "model = json.loads(sys.argv[1])['model']\n"
        "sys.exit('no such model') if model == 'bad' else None\n"
        f"print({good!r})\n"
    )
    todo = [{"model": name, "options": {"micro_batch": 2}} for name in ("bad", "good")]
    card = make_device(kind="cuda", name=CARD, uuid="GPU-1")
    found = dict(calibrating.measure(card, todo, 60.0, command=[sys.executable, str(script)]))
    assert found["bad: micro batch 2"] == "no such model"
    assert isinstance(found["good: micro batch 2"], Observation)
    assert list(calibrating.measure(card, todo, 0.0, command=["false"])) == []


def test_the_fixed_set_is_enough_to_narrow_a_range_and_made_of_setups_for_an_8_gib_card() -> None:
    card = Device(
        source="memory", kind="cuda", name="8 GiB", total_bytes=8 * GIB, free_bytes=None,
        compute_capability=(8, 6), bf16_native=True, bnb_4bit=True,
    )  # fmt: skip
    cells = calibrating.cells()
    assert len({json.dumps(cell) for cell in cells}) == len(cells) >= ENOUGH
    for cell in cells:
        model = resolve_model(cell["model"], online=False)
        resolve(cell["options"], model, card)
        assert model.total_params < 2e9
