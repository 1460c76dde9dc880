"""Runs a plan in a fresh process and hands on what it says.

``launch`` blocks between events, ``alaunch`` awaits them; ``Run`` gives either with a way to stop. Every event is
appended to events.jsonl in the run folder, everything else the worker prints to worker.log. A worker that dies
without a last word gets one here, and a report.
"""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from vramplan.executor.environment import worker_environment
from vramplan.executor.events import Event, Failed, Finished, Step, parse_event
from vramplan.executor.evidence import Evidence, write_report
from vramplan.executor.last_words import last_words
from vramplan.executor.lock import run_lock
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.device import Device

EVENTS = "events.jsonl"
LOG = "worker.log"
GRACE_SECONDS = 120.0
"""How long a worker that was asked to stop may take to finish its step and save."""
LINE_BYTES = 2**24


def launch(plan_path: Path, *, device: Device | None = None) -> Iterator[Event]:
    """Run a plan file and yield its events; SIGINT and SIGTERM are passed on to the worker.

    Args:
        device: the reading of the device to run on; the worker is shown that one alone.

    Raises:
        PlanError: the plan file cannot be trusted.
        PreflightError: another run is using the folder.
    """
    return Run(plan_path, device=device).events()


def alaunch(plan_path: Path, *, device: Device | None = None) -> AsyncGenerator[Event, None]:
    """``launch`` for asyncio. Closing or cancelling the iterator stops the worker."""
    return Run(plan_path, device=device).aevents()


class Run:
    """One run of one plan file.

    Args:
        plan_path: the plan; its folder is the run folder.
        device: the reading of the device to run on.
        track: also follow one step with the tracker that makes memory programs.
        command: what to start instead of the worker (fault injection); it gets no arguments beside its own.
    """

    def __init__(
        self,
        plan_path: Path,
        *,
        device: Device | None = None,
        track: bool = False,
        command: Sequence[str] | None = None,
    ) -> None:
        self.plan = read_plan(plan_path)
        self.run_folder = plan_path.parent
        worker = (
            sys.executable,
            "-P",
            "-m",
            "vramplan.executor.worker",
            str(plan_path),
            *(["--track"] if track else []),
        )
        self.command = tuple(command) if command is not None else worker
        self.environment = worker_environment(self.plan, device, os.environ)
        self.evidence = Evidence(self.plan)
        self._pid: int | None = None
        self._over = False
        self._events: IO[str]
        self._log: IO[bytes]

    def stop(self) -> None:
        """Ask the worker to stop after its current step; asked twice, it stops at once."""
        self._signal(signal.SIGTERM)

    def events(self) -> Iterator[Event]:
        """Start the worker and yield its events until it ends."""
        with self._files() as lock, self._forward_signals():
            process = subprocess.Popen(**self._process_options(lock), stdout=subprocess.PIPE)
            assert process.stdout is not None
            self._pid = process.pid
            try:
                for line in process.stdout:
                    yield from self._heard(line)
                yield from self._ended(process.wait())
            finally:
                if process.poll() is None:
                    self.stop()
                    try:
                        process.wait(GRACE_SECONDS)
                    except subprocess.TimeoutExpired:
                        process.kill()
                        process.wait()
                self._pid = None
                process.stdout.close()

    async def aevents(self) -> AsyncGenerator[Event, None]:
        """``events`` for asyncio; signals are the caller's business."""
        with self._files() as lock:
            options = self._process_options(lock)
            process = await asyncio.create_subprocess_exec(
                *options.pop("args"), **options, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES
            )
            assert process.stdout is not None
            self._pid = process.pid
            try:
                async for line in process.stdout:
                    for event in self._heard(line):
                        yield event
                for event in self._ended(await process.wait()):
                    yield event
            finally:
                if process.returncode is None:
                    self.stop()
                    try:
                        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
                    except TimeoutError:
                        process.kill()
                        await process.wait()
                self._pid = None

    @contextmanager
    def _files(self) -> Iterator[int]:
        with ExitStack() as stack:
            lock = stack.enter_context(run_lock(self.run_folder))
            self._events = stack.enter_context((self.run_folder / EVENTS).open("a", encoding="utf-8"))
            self._log = stack.enter_context((self.run_folder / LOG).open("ab"))
            yield lock

    def _process_options(self, lock: int) -> dict[str, Any]:
        """Its own session, so that Ctrl-C reaches it once, through us; the lock, held as long as it lives."""
        return {
            "args": self.command,
            "stdin": subprocess.DEVNULL,
            "stderr": self._log,
            "env": self.environment,
            "start_new_session": True,
            "pass_fds": (lock,),
        }

    def _heard(self, line: bytes) -> Iterator[Event]:
        event = parse_event(line.decode("utf-8", "replace"))
        if event is None:
            self._log.write(line)
            self._log.flush()
        else:
            yield self._kept(event)

    def _ended(self, exit_status: int) -> Iterator[Event]:
        """The last event of a worker that ended without one."""
        if self._over:
            return
        message, remedy = last_words(exit_status, self.run_folder / LOG)
        write_report(self.evidence.report("failed", message), self.run_folder)
        yield self._kept(Failed(time=time.time(), message=message, remedy=remedy))

    def _kept(self, event: Event) -> Event:
        self._events.write(event.model_dump_json(exclude_none=True) + "\n")
        self._events.flush()
        if isinstance(event, Step):
            self.evidence.steps = event.step
            self.evidence.last_loss = event.loss if event.loss is not None else self.evidence.last_loss
            self.evidence.first_loss = event.loss if self.evidence.first_loss is None else self.evidence.first_loss
        self._over = self._over or isinstance(event, Failed | Finished)
        return event

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

    def _signal(self, number: signal.Signals) -> None:
        if self._pid is not None:
            try:
                os.kill(self._pid, number)
            except ProcessLookupError:
                return
