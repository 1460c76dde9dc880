"""The launcher against workers that behave, die, hang and lie. No torch: the worker is a few lines of Python."""

import asyncio
import json
import os
import signal
import sys
import textwrap
from pathlib import Path

import pytest

from tests.executor.factories import make_device, make_plan, make_setup, write_run
from vramplan.executor.environment import worker_environment
from vramplan.executor.events import Event, Failed, Finished, Step, Warned
from vramplan.executor.launcher import Run
from vramplan.executor.lock import run_lock
from vramplan.planner.errors import CorruptPlanError, PreflightError

SAYS = """
import json, os, signal, sys, time
def say(event, **fields):
    print(json.dumps({"event": event, "time": 0.0, **fields}), flush=True)
"""


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    return write_run(make_plan(tmp_path), tmp_path / "run")


def fake(plan_path: Path, body: str) -> Run:
    return Run(plan_path, command=[sys.executable, "-c", SAYS + textwrap.dedent(body)])


def test_events_arrive_in_order_and_are_kept(plan_path: Path) -> None:
    run = fake(
        plan_path,
        """
        say("started", pid=1, fingerprint="f")
        say("step", step=1, max_steps=2, loss=2.5)
        say("finished", report="report.json")
    """,
    )
    events = list(run.events())
    assert [event.event for event in events] == ["started", "step", "finished"]
    kept = [json.loads(line) for line in (plan_path.parent / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in kept] == ["started", "step", "finished"]


def test_what_is_not_an_event_goes_to_the_log(plan_path: Path) -> None:
    run = fake(
        plan_path,
        """
        print("a library's chatter", flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        print('{"event": "no such event"}', flush=True)
        say("finished", report="r")
    """,
    )
    assert [event.event for event in run.events()] == ["finished"]
    log = (plan_path.parent / "worker.log").read_text()
    assert "a library's chatter" in log
    assert "to stderr" in log
    assert "no such event" in log


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("say('step', step=3, max_steps=9, loss=1.5); os.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("say('step', step=3, max_steps=9, loss=1.5); sys.exit('no\\x1b[31mgood')", r"exit code 1): no\x1b[31mgood"),
        ("say('step', step=3, max_steps=9, loss=1.5)", "exit code 0"),
    ],
)
def test_a_worker_that_dies_without_a_last_word_gets_one_and_a_report(plan_path: Path, body: str, says: str) -> None:
    last = list(fake(plan_path, body).events())[-1]
    assert isinstance(last, Failed)
    assert says in last.message
    assert last.remedy
    report = json.loads((plan_path.parent / "report.json").read_text())
    assert (report["status"], report["steps"], report["last_loss"]) == ("failed", 3, 1.5)
    assert report["failure"] == last.message


def test_a_worker_that_said_it_failed_is_not_contradicted(plan_path: Path) -> None:
    events = list(fake(plan_path, "say('failed', message='out of memory'); sys.exit(1)").events())
    assert [event.message for event in events if isinstance(event, Failed)] == ["out of memory"]
    assert not (plan_path.parent / "report.json").exists()


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_ends(plan_path: Path) -> None:
    with run_lock(plan_path.parent), pytest.raises(PreflightError, match=f"process {os.getpid()}"):
        next(iter(fake(plan_path, "say('finished', report='r')").events()))
    assert len(list(fake(plan_path, "say('finished', report='r')").events())) == 1


def test_two_plans_that_write_into_one_folder_do_not_run_at_once(plan_path: Path, tmp_path: Path) -> None:
    other = write_run(make_plan(tmp_path, seed=7), tmp_path / "other")
    events = fake(plan_path, "say('step', step=1, max_steps=9); time.sleep(60)").events()
    next(events)
    with pytest.raises(PreflightError, match=f"another run is using {tmp_path / 'output'} .process {os.getpid()}"):
        next(fake(other, "say('finished', report='r')").events())
    events.close()
    assert len(list(fake(other, "say('finished', report='r')").events())) == 1


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plan_path = write_run(make_plan(tmp_path, output_dir=str(tmp_path / "file" / "output")), tmp_path / "run")
    with pytest.raises(PreflightError, match=r"cannot make .*output: Not a directory") as refused:
        next(fake(plan_path, "say('finished', report='r')").events())
    assert "--output-dir" in str(refused.value.remedy)


def test_stop_reaches_the_worker_and_its_answer_comes_back(plan_path: Path) -> None:
    run = fake(
        plan_path,
        """
        def stopped(*_):
            say("failed", message="stopped", interrupted=True)
            sys.exit(130)
        signal.signal(signal.SIGTERM, stopped)
        say("step", step=1, max_steps=9)
        time.sleep(60)
    """,
    )
    heard: list[Event] = []
    for event in run.events():
        heard.append(event)
        if isinstance(event, Step):
            run.stop()
    assert isinstance(heard[-1], Failed)
    assert heard[-1].interrupted


def test_ctrl_c_is_passed_on_and_does_not_break_the_reader(plan_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    run = fake(
        plan_path,
        """
        def stopped(*_):
            say("warned", message="got it")
            say("finished", report="r")
            sys.exit(0)
        signal.signal(signal.SIGINT, stopped)
        say("step", step=1, max_steps=9)
        time.sleep(60)
    """,
    )
    heard: list[Event] = []
    for event in run.events():
        heard.append(event)
        if isinstance(event, Step):
            os.kill(os.getpid(), signal.SIGINT)
    assert isinstance(heard[-2], Warned)
    assert isinstance(heard[-1], Finished)
    assert signal.getsignal(signal.SIGINT) is before


def test_leaving_the_iterator_ends_the_worker(plan_path: Path) -> None:
    run = fake(plan_path, "say('started', pid=os.getpid(), fingerprint='f'); time.sleep(60)")
    events = run.events()
    started = next(events)
    events.close()  # type: ignore[attr-defined]
    with pytest.raises(ProcessLookupError):
        os.kill(started.pid, 0)  # type: ignore[union-attr]


async def test_asyncio_hears_the_same_events(plan_path: Path) -> None:
    run = fake(plan_path, "say('step', step=1, max_steps=1); say('finished', report='r')")
    assert [event.event async for event in run.aevents()] == ["step", "finished"]


async def test_asyncio_gives_a_dead_worker_its_last_word(plan_path: Path) -> None:
    run = fake(plan_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert [event.event async for event in run.aevents()] == ["failed"]


async def test_cancelling_the_reader_ends_the_worker(plan_path: Path) -> None:
    run = fake(plan_path, "say('started', pid=os.getpid(), fingerprint='f'); time.sleep(60)")
    pids: list[int] = []

    async def read() -> None:
        async for event in run.aevents():
            pids.append(event.pid)  # type: ignore[union-attr]

    reader = asyncio.create_task(read())
    while not pids:
        await asyncio.sleep(0.01)
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


def test_an_edited_plan_is_not_run(plan_path: Path) -> None:
    plan_path.write_text(plan_path.read_text().replace('"r": 8', '"r": 9'))
    with pytest.raises(CorruptPlanError):
        Run(plan_path)


def test_the_worker_sees_one_device_and_the_planned_allocator(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, model_path=tmp_path, setup=make_setup(alloc_conf="max_split_size_mb:64"))
    inherited = {"PATH": "/bin", "WORLD_SIZE": "8", "ACCELERATE_USE_FSDP": "1", "NO_COLOR": "1"}
    card = make_device(kind="cuda", uuid="GPU-1a2b", index=3)
    environment = worker_environment(plan, card, inherited)
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1a2b"
    assert environment["PYTORCH_ALLOC_CONF"] == environment["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64"
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert (environment["PATH"], environment["NO_COLOR"]) == ("/bin", "1")
    assert "WORLD_SIZE" not in environment
    assert "ACCELERATE_USE_FSDP" not in environment
    assert worker_environment(plan, make_device(), inherited)["CUDA_VISIBLE_DEVICES"] == ""
