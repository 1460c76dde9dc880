"""Runs a plan in fresh processes and hands on what they say.

``events`` blocks between events, ``aevents`` awaits them. A run is one attempt after another (executor/attempt.py):
verification first, then the run; after an out-of-memory error one rung lower, from the newest complete checkpoint.
What is asked of the run (a checkpoint, a pause) is told to the worker, and to the next one as long as it is not done.
Every event is appended to events.jsonl in the run folder, everything else a worker prints to worker.log. A worker that
dies without a last word gets one here, and a report.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import ExitStack, aclosing, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from vramplan.executor import checkpoints
from vramplan.executor.asked import Word
from vramplan.executor.attempt import Attempt
from vramplan.executor.calibrating import remember_run
from vramplan.executor.child import Child
from vramplan.executor.course import Course
from vramplan.executor.environment import worker_environment
from vramplan.executor.events import (
    Event,
    Failed,
    Finished,
    Paused,
    Resumed,
    Saved,
    Step,
    parse_event,
    parse_ranks_ended,
)
from vramplan.executor.evidence import REPORT, VERIFICATION, Evidence, write_report
from vramplan.executor.here import devices_here
from vramplan.executor.host_kills import read_kills
from vramplan.executor.ladder import Price
from vramplan.executor.last_words import first_cause, last_words
from vramplan.executor.lock import run_locks
from vramplan.executor.reprice import reprice
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError

EVENTS = "events.jsonl"
LOG = "worker.log"
SILENCE_SECONDS = 1800.0
"""A worker says something at least once a minute while it trains; loading a large model may take this long."""
WORKER = (sys.executable, "-P", "-m", "vramplan.executor.worker")
RANK_AGENT = (sys.executable, "-P", "-m", "vramplan.executor.rank_agent")
"""Starts as many workers as it is told."""


def launch(plan_path: Path, *, device: Device | None = None) -> Iterator[Event]:
    """Run a plan file and yield its events; SIGINT and SIGTERM are passed on to the worker.

    Args:
        device: the reading of the device to run on; the worker is shown that one alone.

    Raises:
        PlanError: the plan file cannot be trusted.
        PreflightError: another run is using the folder.
    """
    return Run(plan_path, device=device).events()


def alaunch(plan_path: Path, *, device: Device | None = None) -> AsyncGenerator[Event]:
    """``launch`` for asyncio. Closing or cancelling the iterator stops the worker."""
    return Run(plan_path, device=device).aevents()


class Run:
    """One run of one plan file.

    Args:
        plan_path: the plan; its folder is the run folder.
        device: the reading of the device to run on.
        attempt: the first attempt, or the one after its verification.
        verify: verify before, in a process of its own.
        resume: go on from the newest complete checkpoint.
        start_over: remove the checkpoints of earlier runs of this plan.
        command: what to start instead of the worker (fault injection); plan path and attempt are added to it.
        price: what a rung of the ladder would cost.
        silence_seconds: a worker that says nothing for this long is hung.
    """

    def __init__(
        self,
        plan_path: Path,
        *,
        device: Device | None = None,
        attempt: Attempt | None = None,
        verify: bool = False,
        resume: bool = False,
        start_over: bool = False,
        command: Sequence[str] = WORKER,
        price: Price | None = None,
        silence_seconds: float = SILENCE_SECONDS,
    ) -> None:
        self.plan = read_plan(plan_path)
        self.plan_path = plan_path
        self.run_folder = plan_path.parent
        self.course = Course(
            self.plan,
            attempt or Attempt(),
            verify=verify,
            resume=resume,
            start_over=start_over,
            price=price or partial(reprice, self.plan),
        )
        setup = self.plan.setup
        several = setup.world_size > 1
        self.command = (*RANK_AGENT, str(setup.gpus), *command) if several else tuple(command)
        ranks = devices_here(self.plan) if several else ()
        self.environment = worker_environment(self.plan, device, os.environ, ranks=ranks)
        self.evidence = Evidence(self.plan)
        self._silence_seconds = silence_seconds
        self._child: Child | None = None
        self._stopped = False
        self._asked: set[Word] = set()
        self._last: Failed | Finished | None = None
        self._words: list[Failed] = []
        self._exit_statuses: dict[int, int] = {}
        self._events: IO[str]
        self._log: IO[bytes]

    def stop(self) -> None:
        """Ask the worker to stop after its current step; asked twice, it stops at once."""
        self._signal(signal.SIGTERM)

    def checkpoint(self) -> None:
        """Ask the worker to save after its current step."""
        self._ask("checkpoint")

    def pause(self) -> None:
        """Ask the worker to save after its current step and to wait there, its memory kept, until it may go on."""
        self._ask("pause")

    def go_on(self) -> None:
        """Let the worker go on, or not pause after all."""
        self._asked.discard("pause")
        if self._child is not None:
            self._child.may_wait(False)
            self._child.tell("resume")

    @property
    def is_to_pause(self) -> bool:
        """It has been asked to pause, and not yet to go on."""
        return "pause" in self._asked

    def events(self) -> Generator[Event]:
        """Carry the plan out and yield what is said until it ends."""
        with self._files() as locks, self._forward_signals():
            for todo in self._todo():
                if not isinstance(todo, Attempt):
                    yield self._kept(todo)
                    continue
                self._child = self._start(todo, locks)
                with closing(self._child.lines()) as lines:
                    for line in lines:
                        yield from self._heard(line)

    async def aevents(self) -> AsyncGenerator[Event]:
        """``events`` for asyncio; signals are the caller's business."""
        with self._files() as locks:
            for todo in self._todo():
                if not isinstance(todo, Attempt):
                    yield self._kept(todo)
                    continue
                self._child = self._start(todo, locks)
                async with aclosing(self._child.alines()) as lines:
                    async for line in lines:
                        for event in self._heard(line):
                            yield event

    def _todo(self) -> Iterator[Attempt | Event]:
        """What to start and what to say, in order; each attempt's end decides what follows."""
        follows: Iterator[Attempt | Event] = self.course.begin()
        while True:
            attempt: Attempt | None = None
            for todo in follows:
                if isinstance(todo, Attempt):
                    if self._stopped:
                        yield Failed(time=time.time(), message="stopped before its next process", interrupted=True)
                        return
                    attempt = todo
                yield todo
            if attempt is None or self._child is None:
                return
            follows = self.course.after(attempt, self._ending(attempt, self._child), stopped=self._stopped)

    def _start(self, attempt: Attempt, locks: tuple[int, ...]) -> Child:
        self._last, self._words, self._exit_statuses = None, [], {}
        self._kills_before, self._started = read_kills(), time.time()
        plan = attempt.plan_of(self.plan, self.run_folder)
        self.evidence = Evidence(plan, goal=attempt.goal, ladder=attempt.ladder)
        if attempt.resume_from is not None:
            earlier = checkpoints.read_seal(Path(attempt.resume_from))
            self.evidence.continue_from(earlier.so_far, earlier.step)
        command = (*self.command, str(self.plan_path), attempt.model_dump_json())
        child = Child(command, self.environment, self._log, locks, self._silence_seconds)
        for word in sorted(self._asked):
            child.tell(word)
        return child

    def _heard(self, line: bytes) -> Iterator[Event]:
        """An event, handed on unless the course has to decide about it first."""
        text = line.decode("utf-8", "replace")
        event, ended = parse_event(text), parse_ranks_ended(text)
        if ended is not None:
            self._exit_statuses = ended.exit_statuses
        elif event is None:
            self._log.write(line)
            self._log.flush()
        elif isinstance(event, Failed):
            self._words.append(event)
        elif isinstance(event, Finished):
            self._last = event
        else:
            yield self._kept(event)

    def _ending(self, attempt: Attempt, child: Child) -> Failed | Finished:
        """How an attempt ended: what its process said, or of several the one that was the first cause."""
        cause = first_cause(self._words, self._exit_statuses)
        if isinstance(cause, Failed) and not child.hung:
            if cause.rank:
                self._report_for(attempt, cause.message)
            return cause
        if self._last is not None and not child.hung:
            return self._last
        return self._last_word(attempt, child, cause if isinstance(cause, int) else None)

    def _last_word(self, attempt: Attempt, child: Child, rank: int | None) -> Failed:
        """The word and the report of a worker that ended without them, or had to be ended."""
        status = child.exit_status if child.exit_status is not None else 0
        status = status if rank is None else self._exit_statuses[rank]
        message, remedy = last_words(status, self.run_folder / LOG, rank=rank)
        if child.hung:
            message = f"the worker hung: not a word for {self._silence_seconds / 60:.3g} minutes"
            remedy = f"where it stood is in {self.run_folder / LOG}; go on with: vramplan run PLAN --resume"
        write_report(self.evidence.report("failed", message), self.run_folder, self._report_of(attempt))
        if status == -signal.SIGKILL and not child.hung and read_kills() > self._kills_before:
            return self.course.killed(self.evidence.steps, message)
        return Failed(time=time.time(), message=message, remedy=remedy)

    def _report_for(self, attempt: Attempt, message: str) -> None:
        """The first rank's report, with the reason that another one knew; the launcher's own where it left none."""
        path = self.run_folder / self._report_of(attempt)
        report = self.evidence.report("failed", message)
        with suppress(OSError, UsageError):
            if path.stat().st_mtime >= self._started:
                report = read_report(path).model_copy(update={"status": "failed", "failure": message})
        write_report(report, self.run_folder, path.name)

    @staticmethod
    def _report_of(attempt: Attempt) -> str:
        return REPORT if attempt.goal == "run" else VERIFICATION

    def _kept(self, event: Event) -> Event:
        self._events.write(event.model_dump_json(exclude_none=True) + "\n")
        self._events.flush()
        if isinstance(event, Finished) and self.evidence.goal == "run":
            remember_run(self.plan, self.run_folder)
        if isinstance(event, Paused | Resumed) and self._child is not None:
            self._child.may_wait(isinstance(event, Paused) and self.is_to_pause)
        if isinstance(event, Saved):
            self._asked.discard("checkpoint")
        if isinstance(event, Step):
            self.evidence.steps = event.step
            if event.loss is not None:
                self.evidence.add_loss(event.step, event.loss)
        return event

    @contextmanager
    def _files(self) -> Iterator[tuple[int, ...]]:
        with ExitStack() as stack:
            output = Path(self.plan.recipe.output_dir) if self.course.attempt.goal == "run" else None
            locks = stack.enter_context(run_locks(self.run_folder, output))
            self._events = stack.enter_context((self.run_folder / EVENTS).open("a", encoding="utf-8"))
            self._log = stack.enter_context((self.run_folder / LOG).open("ab"))
            yield locks

    @contextmanager
    def _forward_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set signal handlers; there the caller stops the run
            return
        old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for number in old:
                signal.signal(number, lambda caught, frame: self._signal(signal.Signals(caught)))
            yield
        finally:
            for number, was in old.items():
                signal.signal(number, was)

    def _ask(self, word: Word) -> None:
        self._asked.add(word)
        if self._child is not None:
            self._child.tell(word)

    def _signal(self, number: signal.Signals) -> None:
        self._stopped = True
        if self._child is not None:
            self._child.signal(number)
