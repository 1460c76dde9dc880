"""What is asked of a run: words in a pipe, signals at a terminal. No torch: the worker is a few lines of Python."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.executor.factories import make_plan, write_run
from vramplan.executor.asked import Asked
from vramplan.executor.events import Event, Finished, Paused, Progress, Resumed, Step
from vramplan.executor.launcher import Run

SAYS = """
import json, sys, time
def say(event, **fields):
    print(json.dumps({"event": event, "time": 0.0, **fields}), flush=True)
"""
WAITS = """
say("step", step=1, max_steps=2)
for word in sys.stdin:
    say("progress", what=word.strip())
    if word == "pause\\n":
        say("paused", step=1)
    if word == "resume\\n":
        say("resumed", step=1, paused_seconds=1.0)
    if word in ("resume\\n", "checkpoint\\n"):
        break
say("finished", report="r")
"""


@pytest.fixture
def plan_path(tmp_path: Path) -> Path:
    return write_run(make_plan(tmp_path), tmp_path / "run")


def fake(plan_path: Path, body: str = WAITS, silence_seconds: float = 1800.0) -> Run:
    command = [sys.executable, "-c", SAYS + textwrap.dedent(body)]
    return Run(plan_path, command=command, silence_seconds=silence_seconds)


def test_words_are_taken_in_their_order_and_whole() -> None:
    ear, mouth = os.pipe()
    asked = Asked(ear)
    asked.read()
    assert not asked.pause
    os.write(mouth, b"pause\nresume\npause\nnonsense\ncheck")
    asked.read()
    assert (asked.pause, asked.resume, asked.checkpoint) == (True, True, False)
    os.write(mouth, b"point\nresume\n")
    asked.read(5.0)
    assert (asked.pause, asked.checkpoint, asked.gone) == (False, True, False)
    os.close(mouth)
    asked.read(5.0)
    assert asked.gone
    asked.read(5.0)


def test_a_library_finds_an_empty_input_where_a_person_would_be_asked() -> None:
    code = """
        from vramplan.executor.asked import Asked
        asked = Asked.of_stdin()
        try:
            input()
        except EOFError:
            asked.read(5.0)
            print(asked.checkpoint)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    ended = subprocess.run(command, input="checkpoint\n", capture_output=True, text=True, check=True)
    assert ended.stdout == "True\n"


def test_a_pause_is_kept_in_silence_until_the_run_may_go_on(plan_path: Path) -> None:
    """The watch that ends silent workers looks twice while this one waits."""
    run, heard = fake(plan_path, silence_seconds=0.5), list[Event]()
    for event in run.events():
        heard.append(event)
        if isinstance(event, Step):
            run.pause()
        if isinstance(event, Paused):
            assert run.is_to_pause
            time.sleep(1.2)
            run.go_on()
    assert [event.event for event in heard] == ["step", "progress", "paused", "progress", "resumed", "finished"]
    assert not run.is_to_pause


async def test_asyncio_asks_the_same(plan_path: Path) -> None:
    run, heard = fake(plan_path), list[str]()
    async for event in run.aevents():
        heard.append(event.what if isinstance(event, Progress) else event.event)
        if isinstance(event, Step):
            run.checkpoint()
    assert heard == ["step", "checkpoint", "finished"]


def test_what_is_asked_before_a_process_is_there_reaches_the_first_and_what_is_not_done_the_next(
    plan_path: Path,
) -> None:
    words = "word = sys.stdin.readline(); say('progress', what=word.strip()); say('finished', report='r')"
    command = [sys.executable, "-c", SAYS + words]
    run = Run(plan_path, command=command, verify=True)
    run.pause()
    said = [event.what if isinstance(event, Progress) else event.event for event in run.events()]
    assert said == ["pause", "verified", "pause", "finished"]


def watched(plan_path: Path, **options: Any) -> "subprocess.Popen[str]":
    """A process that watches a fake worker as ``vramplan run`` does."""
    code = f"""
        from pathlib import Path
        from tests.executor.test_asked import fake
        from vramplan.executor.watch import watch
        raise SystemExit(watch(fake(Path({str(plan_path)!r}), **{options!r})))
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, bufsize=1)


def test_a_supervisor_that_was_stopped_itself_does_not_take_the_worker_for_hung(plan_path: Path) -> None:
    body = "say('step', step=1, max_steps=2); time.sleep(0.5); say('finished', report='r')"
    with watched(plan_path, body=body, silence_seconds=1.0) as watching:
        assert watching.stderr is not None
        watching.stderr.readline()
        watching.send_signal(signal.SIGSTOP)
        time.sleep(2.0)
        watching.send_signal(signal.SIGCONT)
        rest = watching.stderr.read()
    assert (watching.returncode, rest) == (0, "")


def test_on_a_terminal_ctrl_z_stops_both_and_fg_goes_on_with_both(plan_path: Path) -> None:
    with watched(plan_path) as watching:
        assert watching.stderr is not None
        assert watching.stderr.readline().startswith("step 1/2")
        watching.send_signal(signal.SIGTSTP)
        while psutil.Process(watching.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.05)
        watching.send_signal(signal.SIGCONT)
        rest = watching.stderr.read()
    assert watching.returncode == 0
    assert rest.splitlines()[1] == "paused after step 1; its memory stays taken"
    assert "going on after a pause of 0:00:01" in rest


def test_sigusr1_asks_for_a_checkpoint(plan_path: Path) -> None:
    from vramplan.executor.watch import asked_by_signals

    before = signal.getsignal(signal.SIGUSR1)
    run, heard = fake(plan_path), list[Event]()
    with asked_by_signals(run):
        for event in run.events():
            heard.append(event)
            if isinstance(event, Step):
                signal.raise_signal(signal.SIGUSR1)
    assert [event.what for event in heard if isinstance(event, Progress)] == ["checkpoint"]
    assert isinstance(heard[-1], Finished)
    assert not any(isinstance(event, Resumed) for event in heard)
    assert signal.getsignal(signal.SIGUSR1) == before
