"""What follows what in a run, with workers that are a few lines of Python: verification, rungs, kills, hangs."""

import json
import sys
import textwrap
from pathlib import Path

import pytest

from tests.executor.factories import make_plan, make_setup, write_run
from tests.executor.test_checkpoints import write as write_checkpoint
from tests.executor.test_ladder import price
from tests.executor.test_launcher import SAYS
from vramplan.executor import launcher
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Event, Failed, Finished, OutOfMemory, Rung, Step, Verified, Warned
from vramplan.executor.launcher import Run
from vramplan.planner.errors import PreflightError, RunError

READS = """
plan, attempt = sys.argv[1], json.loads(sys.argv[2])
setup = attempt["setup"] or {"micro_batch_size": 4}
oom = {"event": "out_of_memory", "time": 0.0, "step": 2, "phase": "backward", "message": "CUDA out of memory.",
       "allocator": {"reserved": 7}}
"""


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    return write_run(make_plan(tmp_path, setup=make_setup(micro_batch_size=4)), tmp_path / "run")


def fake(plan_path: Path, body: str, **options: object) -> Run:
    command = [sys.executable, "-c", SAYS + READS + textwrap.dedent(body)]
    return Run(plan_path, command=command, price=price, **options)  # type: ignore[arg-type]


def kinds(events: list[Event]) -> list[str]:
    return [event.event for event in events]


def test_verification_comes_first_and_the_run_after_it(plan_path: Path) -> None:
    events = list(
        fake(plan_path, "say('progress', what=attempt['goal']); say('finished', report='r')", verify=True).events()
    )
    assert kinds(events) == ["progress", "verified", "progress", "finished"]
    assert [event.what for event in events if event.event == "progress"] == ["verify", "run"]


def test_a_failed_verification_ends_it(plan_path: Path) -> None:
    events = list(fake(plan_path, "say('failed', message='not as planned: weights')", verify=True).events())
    assert kinds(events) == ["failed"]


def test_a_stop_between_verification_and_run_starts_no_run(plan_path: Path) -> None:
    run = fake(plan_path, "say('finished', report='r')", verify=True)
    events = []
    for event in run.events():
        events.append(event)
        if isinstance(event, Verified):
            run.stop()
    assert kinds(events) == ["verified", "failed"]
    assert isinstance(events[-1], Failed)
    assert events[-1].interrupted


OOM_ABOVE_ONE = """
    if setup["micro_batch_size"] > 1:
        say("step", step=2, max_steps=9, loss=1.5)
        say("failed", message="out of memory in backward of step 3", out_of_memory=oom)
        sys.exit(1)
    say("finished", report="r")
"""


def test_out_of_memory_takes_rung_after_rung_from_the_newest_checkpoint(plan_path: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, setup=make_setup(micro_batch_size=4))
    run = fake(plan_path, OOM_ABOVE_ONE)
    events: list[Event] = []
    for event in run.events():
        events.append(event)
        if isinstance(event, Step) and len(events) == 1:
            write_checkpoint(tmp_path / "output", plan, 1)
    assert kinds(events) == ["step", "out_of_memory", "rung", "step", "out_of_memory", "rung", "finished"]
    rungs = [event for event in events if isinstance(event, Rung)]
    assert [rung.change for rung in rungs] == [
        "micro batch 4 -> 2, accumulation 1 -> 2",
        "micro batch 2 -> 1, accumulation 2 -> 4",
    ]
    assert [rung.from_step for rung in rungs] == [1, 1]
    assert all(rung.process_bytes is not None for rung in rungs)
    said = next(event for event in events if isinstance(event, OutOfMemory))
    assert (said.phase, said.allocator) == ("backward", {"reserved": 7})


def test_each_attempt_is_told_what_was_tried_before(plan_path: Path) -> None:
    body = OOM_ABOVE_ONE + "    print(json.dumps(attempt), flush=True)"
    list(fake(plan_path, body).events())
    log = (plan_path.parent / "worker.log").read_text()
    attempt = Attempt.model_validate_json(log.splitlines()[-1])
    assert [rung.change.split(",")[0] for rung in attempt.ladder] == ["micro batch 4 -> 2", "micro batch 2 -> 1"]
    assert attempt.ladder[0].message == "CUDA out of memory."
    assert attempt.ladder[0].allocator == {"reserved": 7}


def test_at_the_ladders_end_a_person_is_asked(plan_path: Path) -> None:
    events = list(fake(plan_path, "say('failed', message='out of memory', out_of_memory=oom); sys.exit(1)").events())
    assert len([event for event in events if isinstance(event, Rung)]) == 3
    last = events[-1]
    assert isinstance(last, Failed)
    assert "what is left to change would change the result" in last.message
    assert last.remedy is not None
    for option in ("--optimizer adamw_8bit", "--method qlora", "--sequence-length 16"):
        assert option in last.remedy


def test_verification_takes_the_rung_too_and_the_run_keeps_it(plan_path: Path) -> None:
    body = OOM_ABOVE_ONE.replace('say("finished"', 'say("progress", what=attempt["goal"]); say("finished"')
    events = list(fake(plan_path, body, verify=True).events())
    assert kinds(events)[-4:] == ["progress", "verified", "progress", "finished"]
    assert kinds(events).count("rung") == 2


def test_a_kill_by_the_hosts_memory_is_told_from_a_murder(plan_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = """
        if setup["micro_batch_size"] > 2:
            os.kill(os.getpid(), signal.SIGKILL)
        say("finished", report="r")
    """
    assert kinds(list(fake(plan_path, body).events())) == ["failed"]
    kills = iter(range(100))
    monkeypatch.setattr(launcher, "read_kills", lambda: next(kills))
    assert kinds(list(fake(plan_path, body).events())) == ["out_of_memory", "rung", "finished"]


def test_a_silent_worker_prints_its_stacks_and_is_put_down(plan_path: Path) -> None:
    body = """
        import faulthandler
        faulthandler.register(signal.SIGUSR1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        say("step", step=1, max_steps=9)
        time.sleep(600)
    """
    last = list(fake(plan_path, body, silence_seconds=2.5).events())[-1]
    assert isinstance(last, Failed)
    assert "hung" in last.message
    assert "--resume" in str(last.remedy)
    assert "most recent call first" in (plan_path.parent / "worker.log").read_text()
    assert json.loads((plan_path.parent / "report.json").read_text())["status"] == "failed"


def test_resuming_refuses_by_name_what_it_passes_over(plan_path: Path, tmp_path: Path) -> None:
    plan = make_plan(tmp_path, setup=make_setup(micro_batch_size=4))
    write_checkpoint(tmp_path / "output", plan, 4)
    edited = write_checkpoint(tmp_path / "output", plan, 6)
    (edited / "model.safetensors").write_bytes(b"other weights here")
    body = "say('progress', what=attempt['resume_from']); say('finished', report='r')"
    events = list(fake(plan_path, body, resume=True).events())
    assert kinds(events) == ["warned", "progress", "finished"]
    assert isinstance(events[0], Warned)
    assert "checkpoint-6 was edited or damaged" in events[0].message
    assert events[1].what.endswith("checkpoint-4")  # type: ignore[union-attr]


def test_without_a_checkpoint_there_is_nothing_to_resume(plan_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to go on from"):
        list(fake(plan_path, "say('finished', report='r')", resume=True).events())


def test_checkpoints_of_an_earlier_run_are_never_run_over(plan_path: Path, tmp_path: Path) -> None:
    place = write_checkpoint(tmp_path / "output", make_plan(tmp_path, setup=make_setup(micro_batch_size=4)), 4)
    with pytest.raises(PreflightError, match="checkpoint-4 of an earlier run") as refused:
        list(fake(plan_path, "say('finished', report='r')").events())
    assert "--resume" in str(refused.value.remedy)
    assert isinstance(list(fake(plan_path, "say('finished', report='r')", start_over=True).events())[-1], Finished)
    assert not place.exists()
