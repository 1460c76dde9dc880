"""The child process of a run: ``python -P -m vramplan.executor.worker PLAN ATTEMPT`` (executor/attempt.py, as JSON).

Its stdout is the wire (executor/events.py) and nothing else; whatever a library prints goes to stderr, which the
launcher keeps as worker.log. On its stdin it is asked for checkpoints and pauses (executor/asked.py). It writes its
report itself, also when it fails. SIGUSR1 makes it print every stack.
"""

import faulthandler
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vramplan.executor.asked import Asked
from vramplan.executor.attempt import Attempt
from vramplan.executor.deepspeed_here import how_to_go_on
from vramplan.executor.events import Event, Failed, Finished, OutOfMemory, Progress, Started
from vramplan.executor.evidence import REPORT, VERIFICATION, Evidence, write_report
from vramplan.executor.failure import (
    SNAPSHOT,
    allocator_bytes,
    allocator_snapshot,
    explain_failure,
    first_line,
    is_out_of_memory,
)
from vramplan.executor.process import Interrupted, Stop
from vramplan.executor.ranks import Ranks, is_lost_peer
from vramplan.executor.secrets import CleanStream, Redactor
from vramplan.executor.train import TrainingRun
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.errors import ExitCode, RunError, VramplanError
from vramplan.planner.plan import Plan
from vramplan.planner.values import Value

Emit = Callable[[Event], None]


def main(argv: list[str] | None = None) -> int:
    """Carry out one attempt at a plan file; the process's exit code."""
    plan_path, attempt_json = sys.argv[1:3] if argv is None else argv
    faulthandler.register(signal.SIGUSR1)
    ranks = Ranks.of(os.environ)
    ranks.die_with_parent()
    asked = Asked.of_stdin()
    emit = wire(quiet=not ranks.first)
    stop = Stop()
    stop.listen()
    try:
        plan = read_plan(Path(plan_path))
        ranks.check_started(plan)
    except VramplanError as error:
        emit(Failed(time=time.time(), message=error.message, remedy=error.remedy))
        return error.exit_code
    attempt = Attempt.model_validate_json(attempt_json)
    plan = attempt.plan_of(plan, Path(plan_path).parent)
    emit(Started(time=time.time(), pid=os.getpid(), fingerprint=plan.fingerprint, max_steps=plan.recipe.max_steps))
    return Work(plan, attempt, Path(plan_path).parent, emit, stop, ranks, asked).run()


class Work:
    """One attempt, its report, and its last word.

    Args:
        plan: with the attempt's changes (``Attempt.plan_of``).
        run_folder: where the report goes.
        ranks: this process among others; the first writes the report, and the last word unless another failed.
        asked: of the run, while it trains.
    """

    def __init__(
        self,
        plan: Plan,
        attempt: Attempt,
        run_folder: Path,
        emit: Emit,
        stop: Stop,
        ranks: Ranks | None = None,
        asked: Asked | None = None,
    ) -> None:
        evidence = Evidence(plan, goal=attempt.goal, ladder=attempt.ladder)
        self.ranks = ranks or Ranks()
        self.training = TrainingRun(plan, attempt, evidence, emit, stop, self.ranks, asked or Asked())
        self.evidence = self.training.evidence
        self.run_folder = run_folder
        self.report = REPORT if attempt.goal == "run" else VERIFICATION

    def run(self) -> ExitCode:
        """Train, write the report, and say how it ended. No exception leaves here."""
        try:
            self.training.run()
            if not self.ranks.first:  # the first says how it ended
                return ExitCode.OK
            if not self.training.stop.requested:
                written = self._write("done")
                self.training.emit(Finished(time=time.time(), report=str(written)))
                return ExitCode.OK
        except (Interrupted, KeyboardInterrupt):
            traceback.print_exc()
        except BrokenPipeError:
            self._write("interrupted", "whoever watched this run is gone")
            return ExitCode.INTERRUPTED
        except Exception as error:
            return self._failed(error)
        remedy = how_to_go_on(self.evidence.plan) if self.report == REPORT else None
        return self._end("interrupted", RunError(f"stopped after {self.evidence.steps} steps", remedy=remedy))

    def _failed(self, error: Exception) -> ExitCode:
        allocator = allocator_bytes() if is_out_of_memory(error) else {}
        if allocator:
            self._keep_snapshot()
        traceback.print_exc()
        step, phase = self.evidence.steps, self.evidence.phase
        out_of_memory = None
        if is_out_of_memory(error):
            out_of_memory = OutOfMemory(
                time=time.time(), step=step, phase=phase, message=first_line(error), allocator=allocator
            )
        if self.training.stop.requested and is_lost_peer(error):
            return self._end("interrupted", RunError(f"stopped after {self.evidence.steps} steps"))
        explained = explain_failure(error, step=step, phase=phase)
        if self.ranks.several and not (self.ranks.first and error is explained):  # a person's mistake is all ranks'
            explained.message = f"rank {self.ranks.rank}: {explained.message}"
        return self._end("failed", explained, out_of_memory, error)

    def _keep_snapshot(self) -> None:
        """Where every segment and block lay when memory ran out, for a bug report."""
        try:
            (self.run_folder / SNAPSHOT).write_text(json.dumps(allocator_snapshot()), encoding="utf-8")
        except (OSError, RuntimeError):
            traceback.print_exc()

    def _end(
        self,
        status: Literal["failed", "interrupted"],
        error: VramplanError,
        out_of_memory: OutOfMemory | None = None,
        cause: Exception | None = None,
    ) -> ExitCode:
        try:
            if self.ranks.first:
                self._write(status, error.message)
        except OSError:  # a full disk must not hide why the run failed
            traceback.print_exc()
        interrupted = status == "interrupted"
        self.training.emit(
            Failed(
                time=time.time(),
                message=error.message,
                remedy=error.remedy,
                phase=self.evidence.phase,
                interrupted=interrupted,
                out_of_memory=out_of_memory,
                rank=self.ranks.rank,
                lost_peer=self.ranks.several and cause is not None and is_lost_peer(cause),
            )
        )
        return ExitCode.INTERRUPTED if interrupted else ExitCode.FAILED

    def _write(self, status: Literal["done", "failed", "interrupted"], failure: str | None = None) -> Path:
        failure = None if failure is None else Redactor(os.environ).clean(failure)
        return write_report(self.evidence.report(status, failure), self.run_folder, self.report)


def wire(*, quiet: bool = False) -> Callable[[Value], None]:
    """Keep the real stdout for events, and send everything else that would be printed there to stderr.

    Args:
        quiet: say nothing but that this process failed: another of the run tells the rest.

    What libraries say, here and as the reason of a failure, is cleaned of secrets. A model's answers are left alone.
    """
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    redactor = Redactor(os.environ)
    sys.stdout, sys.stderr = CleanStream(sys.stdout, redactor), CleanStream(sys.stderr, redactor)

    def emit(event: Value) -> None:
        if quiet and not (isinstance(event, Failed) and not event.interrupted):
            return
        if isinstance(event, Failed | Progress):
            event = type(event).model_validate(redactor.clean_all(event.model_dump(mode="json")))
        out.write(event.model_dump_json(exclude_none=True) + "\n")
        out.flush()

    return emit


if __name__ == "__main__":
    sys.exit(main())
