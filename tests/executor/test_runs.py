"""``vramplan runs``: every folder told as it stands, and what can be done with it next."""

import json
from pathlib import Path

import pytest

from tests.executor.factories import make_plan, make_setup, write_run
from tests.executor.test_checkpoints import write as write_checkpoint
from vramplan.executor.evidence import VERIFICATION, Evidence, write_report
from vramplan.executor.lock import run_lock
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.plan import Plan
from vramplan.planner.report import RungTaken


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    plan = make_plan(tmp_path, setup=make_setup(micro_batch_size=4))
    write_run(plan, tmp_path / "runs" / "one")
    return plan


def shown(*arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert run_command(["runs", *arguments]) == ExitCode.OK
    return capsys.readouterr().out


def test_a_folder_is_told_as_it_stands(plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "one"
    assert "planned" in shown(capsys=capsys)
    write_report(Evidence(plan, goal="verify").report("done"), folder, VERIFICATION)
    assert "verified" in shown(capsys=capsys)
    (folder / VERIFICATION).unlink()
    (folder / "events.jsonl").touch()
    assert "killed" in shown(capsys=capsys)
    with run_lock(folder):
        assert "running" in shown(capsys=capsys)
        (folder / "events.jsonl").write_text('{"event": "step", "step": 3}\n{"event": "paused", "step": 3}\n')
        assert "paused" in shown(capsys=capsys)
        (folder / "events.jsonl").write_text('{"event": "paused", "step": 3}\n{"event": "resumed", "step": 3}\n')
        assert "running" in shown(capsys=capsys)
    write_report(Evidence(plan).report("done"), folder)
    assert "done" in shown(capsys=capsys)


def test_a_run_that_is_done_is_not_trained_on_by_resuming_it(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "one"
    write_checkpoint(tmp_path / "output", plan, 1)
    write_report(Evidence(plan).report("done"), folder)
    before = sorted(path.name for path in folder.iterdir())
    assert run_command(["run", "runs/one/plan.json", "--resume", "--json"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert (json.loads(out)["preflight"], json.loads(out)["report"]["status"]) == (None, "done")
    assert "runs/one/plan.json is finished" in err
    assert "--start-over runs it again" in err
    assert sorted(path.name for path in folder.iterdir()) == before


def test_one_run_shows_planned_beside_used_and_what_to_do_next(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rung = RungTaken(change="micro batch 4 -> 2, accumulation 1 -> 2", phase="backward", step=7)
    used = plan.model_copy(
        update={"setup": plan.setup.model_copy(update={"micro_batch_size": 2, "gradient_accumulation_steps": 2})}
    )
    evidence = Evidence(used, ladder=(rung,), steps=9, resumed_from_step=6)
    evidence.add_loss(9, 2.5)
    write_report(evidence.report("interrupted", "stopped after 9 steps"), tmp_path / "runs" / "one")
    write_checkpoint(tmp_path / "output", plan, 9)
    text = shown("one", capsys=capsys)
    assert "interrupted" in text, text
    row = next(line for line in text.splitlines() if "micro batch size" in line)
    assert row.split()[-2:] == ["4", "2"]
    assert "out of memory in backward of step 8: micro batch 4 -> 2, accumulation 1 -> 2" in text
    assert "went on from the checkpoint of step 6" in text
    assert text.rstrip().endswith("vramplan run runs/one/plan.json --resume")
    printed = json.loads(shown("one", "--json", capsys=capsys))
    assert (printed["status"], printed["checkpoint_step"]) == ("interrupted", 9)
    assert printed["report"]["ladder"][0]["change"] == rung.change


def test_an_edited_plan_is_named_and_the_others_are_listed(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = write_run(plan, tmp_path / "runs" / "two")
    bad.write_text(bad.read_text().replace('"seed": 42', '"seed": 43'))
    assert run_command(["runs"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert "one" in out
    assert "edited or damaged" in err
    assert run_command(["runs", "three"]) == ExitCode.USAGE
