"""``vramplan run`` from end to end: a refusal costs nothing, a run leaves everything, a stop is clean."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.executor.factories import (
    make_budget,
    make_plan,
    make_setup,
    make_tiny_llama,
    pin,
    prompt_completion_rows,
    write_jsonl,
    write_run,
)
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Qlora

COMMAND = "import sys; from vramplan.planner.cli.main import run_command; sys.exit(run_command(sys.argv[1:]))"


def run_cli(*arguments: str) -> subprocess.Popen[str]:
    """The command in a process of its own, as a person's shell would start it."""
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "run", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_blocked_plan_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_path = write_run(make_plan(tmp_path, budget=make_budget(2**60)), tmp_path / "run")
    assert run_command(["run", str(plan_path)]) == ExitCode.REFUSED
    out, err = capsys.readouterr()
    assert out == ""
    assert "preflight: no go" in err
    assert "BLOCKS" in err
    assert sorted(path.name for path in plan_path.parent.iterdir()) == ["lock", "plan.json"]


def test_json_says_what_blocked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_path = write_run(make_plan(tmp_path, budget=make_budget(2**60)), tmp_path / "run")
    assert run_command(["run", str(plan_path), "--json"]) == ExitCode.REFUSED
    printed = json.loads(capsys.readouterr().out)
    assert printed["report"] is None
    assert printed["preflight"]["go"] is False
    assert "memory" in {check["name"] for check in printed["preflight"]["checks"] if check["verdict"] == "blocks"}


def test_an_edited_or_missing_plan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_path = write_run(make_plan(tmp_path), tmp_path / "run")
    plan_path.write_text(plan_path.read_text().replace('"seed": 42', '"seed": 43'))
    assert run_command(["run", str(plan_path)]) == ExitCode.REFUSED
    assert run_command(["run", str(tmp_path / "nowhere.json")]) == ExitCode.USAGE
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("world")
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows())
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data)}


@pytest.mark.train
def test_a_run_leaves_its_events_its_report_and_its_weights(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(tmp_path, setup=make_setup(Qlora(r=8)), eval_data=world["data"].path, save_steps=4, **world)
    plan_path = write_run(plan, tmp_path / "run")
    process = run_cli(str(plan_path), "--json")
    out, err = process.communicate()
    assert process.returncode == ExitCode.OK, err
    printed = json.loads(out)
    assert printed["preflight"]["go"] is True
    assert printed["report"] == json.loads((tmp_path / "run" / "report.json").read_text())
    assert printed["report"]["plan_fingerprint"] == plan.fingerprint
    assert printed["report"]["eval_loss_after"] < printed["report"]["eval_loss_before"]
    assert "step 10/10" in err
    kinds = [json.loads(line)["event"] for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines()]
    assert (kinds[0], kinds[-1]) == ("started", "finished")
    run_began = kinds.index("verified") + 1
    assert (kinds[:run_began].count("step"), kinds[run_began:].count("step")) == (3, 10)
    assert kinds.count("saved") == 5  # steps 1, 4, 8 and 10, and the adapter
    verification = json.loads((tmp_path / "run" / "verify.json").read_text())
    assert (verification["status"], verification["plan_fingerprint"]) == ("done", plan.fingerprint)
    assert {"forward", "backward", "optimizer_step", "evaluation", "save"} <= {
        phase["name"] for phase in verification["phases"] if phase["allocated_bytes"]
    }
    assert not (tmp_path / "run" / "verify").exists()
    assert (tmp_path / "output" / "adapter_model.safetensors").exists()
    assert sorted(path.name for path in (tmp_path / "output").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-8"]
    assert run_command(["run", str(plan_path), "--yes"]) == ExitCode.REFUSED
    assert "--start-over" in capsys.readouterr().err


@pytest.mark.train
def test_ctrl_c_ends_a_run_after_its_step_with_a_checkpoint(world: dict[str, Any], tmp_path: Path) -> None:
    plan_path = write_run(make_plan(tmp_path, max_steps=100_000, **world), tmp_path / "run")
    process = run_cli(str(plan_path), "--no-verify")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 5/"):
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate()[1]
    assert process.returncode == ExitCode.INTERRUPTED
    assert "stopped after" in rest
    assert "Traceback" not in rest
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["status"] == "interrupted"
    assert 5 <= report["steps"] < 100_000
    assert (tmp_path / "output" / f"checkpoint-{report['steps']}" / "trainer_state.json").exists()


@pytest.mark.train
def test_a_killed_worker_is_a_failed_run(world: dict[str, Any], tmp_path: Path) -> None:
    plan_path = write_run(make_plan(tmp_path, max_steps=100_000, **world), tmp_path / "run")
    process = run_cli(str(plan_path), "--no-verify")
    events = tmp_path / "run" / "events.jsonl"
    while not events.exists() or '"pid"' not in events.read_text():
        time.sleep(0.05)
    os.kill(json.loads(events.read_text().splitlines()[0])["pid"], signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == ExitCode.FAILED
    assert "killed by SIGKILL" in err
    assert json.loads((tmp_path / "run" / "report.json").read_text())["status"] == "failed"


@pytest.mark.train
def test_a_worker_nobody_watches_ends_itself(world: dict[str, Any], tmp_path: Path) -> None:
    plan_path = write_run(make_plan(tmp_path, max_steps=100_000, **world), tmp_path / "run")
    process = run_cli(str(plan_path), "--no-verify")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("step 3/"):
            process.kill()
            break
    process.communicate()
    report = tmp_path / "run" / "report.json"
    while not report.exists():
        time.sleep(0.05)
    written = json.loads(report.read_text())
    assert (written["status"], written["failure"]) == ("interrupted", "whoever watched this run is gone")
    pid = json.loads((tmp_path / "run" / "events.jsonl").read_text().splitlines()[0])["pid"]
    while psutil.pid_exists(pid):
        time.sleep(0.05)
