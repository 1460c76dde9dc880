"""Real runs that are paused, saved on request, left alone in a pause: the numbers are those of a run nobody asked."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from benchmarks.faults import make_world, outcome_of, plan_in, undisturbed
from vramplan.executor.checkpoints import newest_complete
from vramplan.executor.events import Event, Finished, Paused, Resumed, Saved, Step
from vramplan.executor.launcher import Run
from vramplan.planner.adapters.plan_files import read_plan, read_report

pytest.importorskip("torch")
pytestmark = pytest.mark.train

SHORT: dict[str, Any] = {"max_steps": 5, "save_steps": None}
PAUSE_SECONDS = 3.0


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_world(tmp_path_factory.mktemp("world"))


def test_a_paused_run_ends_in_the_same_bits_and_the_pause_is_in_no_figure(
    world: dict[str, Any], tmp_path: Path
) -> None:
    expected = undisturbed(plan_in(tmp_path / "expected", world, **SHORT))
    plan_path = plan_in(tmp_path / "run", world, **SHORT)
    run, heard = Run(plan_path), list[Event]()
    run.pause()
    for event in run.events():
        heard.append(event)
        if isinstance(event, Paused) and event.step == 1:
            run.go_on()
            run.pause()
        elif isinstance(event, Paused):
            time.sleep(PAUSE_SECONDS)
            run.checkpoint()
            run.go_on()
    assert isinstance(heard[-1], Finished)
    assert outcome_of(plan_path) == expected
    told = [(event.event, event.step) for event in heard if isinstance(event, Saved | Paused | Resumed)]
    rest = [("saved", 3), ("saved", 5)]
    assert told == [(what, step) for step in (1, 2) for what in ("saved", "paused", "resumed")] + rest
    paused_seconds = sum(event.paused_seconds for event in heard if isinstance(event, Resumed))
    report = read_report(plan_path.with_name("report.json"))
    assert report.paused_seconds == pytest.approx(paused_seconds)
    assert report.seconds + report.paused_seconds <= (report.ended_at - report.started_at).total_seconds() + 0.1
    assert report.tokens_per_second is not None
    tokens = max(event.tokens or 0 for event in heard if isinstance(event, Step))
    assert tokens / report.tokens_per_second < PAUSE_SECONDS


def test_a_paused_worker_whose_supervisor_is_killed_has_saved_and_ends(world: dict[str, Any], tmp_path: Path) -> None:
    plan_path = plan_in(tmp_path / "run", world, **SHORT)
    code = "import sys; from vramplan.planner.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "run", str(plan_path), "--yes", "--no-verify"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1) as watching:
        assert watching.stderr is not None
        while "step 1/5" not in watching.stderr.readline():
            pass
        watching.send_signal(signal.SIGTSTP)
        while psutil.Process(watching.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.05)
        (worker,) = psutil.Process(watching.pid).children()
        os.kill(watching.pid, signal.SIGKILL)
    psutil.wait_procs([worker], timeout=60)
    assert not worker.is_running()
    report = read_report(plan_path.with_name("report.json"))
    assert (report.status, report.failure) == ("interrupted", "whoever watched this run is gone")
    newest = newest_complete(tmp_path / "run" / "output", read_plan(plan_path).fingerprint)
    assert newest.seal is not None
    assert newest.seal.step == report.steps
    assert isinstance(list(Run(plan_path, resume=True).events())[-1], Finished)


def test_stopping_a_paused_run_ends_it_at_its_pause(world: dict[str, Any], tmp_path: Path) -> None:
    plan_path = plan_in(tmp_path / "run", world, **SHORT)
    run, heard = Run(plan_path), list[Event]()
    run.pause()
    for event in run.events():
        heard.append(event)
        if isinstance(event, Paused):
            run.stop()
    assert [event.event for event in heard[-3:]] == ["saved", "paused", "failed"]
    assert heard[-1].interrupted  # type: ignore[union-attr]
    assert read_report(plan_path.with_name("report.json")).steps == 1
