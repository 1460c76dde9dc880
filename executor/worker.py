"""The child process of a run: ``python -P -m vramplan.executor.worker PLAN [--track]``.

Its stdout is the wire (executor/events.py) and nothing else; whatever a library prints goes to stderr, which the
launcher keeps as worker.log. It writes report.json itself, also when the run fails.
"""

import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vramplan.executor.events import Event, Failed, Finished, Started
from vramplan.executor.evidence import Evidence, write_report
from vramplan.executor.failure import explain_failure
from vramplan.executor.process import Interrupted, Stop
from vramplan.executor.train import TrainingRun
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.errors import ExitCode, RunError, VramplanError
from vramplan.planner.plan import Plan

Emit = Callable[[Event], None]


def main(argv: list[str] | None = None) -> int:
    """Run one plan file; the process's exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    plan_path, track = Path(arguments[0]), "--track" in arguments[1:]
    emit = wire()
    stop = Stop()
    stop.listen()
    try:
        plan = read_plan(plan_path)
    except VramplanError as error:
        emit(Failed(time=time.time(), message=error.message, remedy=error.remedy))
        return error.exit_code
    emit(Started(time=time.time(), pid=os.getpid(), fingerprint=plan.fingerprint, max_steps=plan.recipe.max_steps))
    return run(plan, plan_path.parent, emit, stop, track=track)


def run(plan: Plan, run_folder: Path, emit: Emit, stop: Stop, *, track: bool = False) -> ExitCode:
    """Train, write the report, and say how it ended. No exception leaves here."""
    evidence = Evidence(plan)
    try:
        TrainingRun(plan, evidence, emit, stop, track).run()
        if not stop.requested:
            emit(Finished(time=time.time(), report=str(write_report(evidence.report("done"), run_folder))))
            return ExitCode.OK
    except (Interrupted, KeyboardInterrupt):
        traceback.print_exc()
    except BrokenPipeError:
        write_report(evidence.report("interrupted", "whoever watched this run is gone"), run_folder)
        return ExitCode.INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        explained = explain_failure(error, step=evidence.steps, phase=evidence.phase)
        return _end(evidence, run_folder, emit, explained, "failed")
    stopped = RunError(
        f"stopped after {evidence.steps} steps",
        remedy="what it saved is in the output folder; vramplan run starts over",
    )
    return _end(evidence, run_folder, emit, stopped, "interrupted")


def wire() -> Emit:
    """Keep the real stdout for events, and send everything else that would be printed there to stderr."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def emit(event: Event) -> None:
        out.write(event.model_dump_json(exclude_none=True) + "\n")
        out.flush()

    return emit


def _end(
    evidence: Evidence, run_folder: Path, emit: Emit, error: VramplanError, status: Literal["failed", "interrupted"]
) -> ExitCode:
    try:
        write_report(evidence.report(status, error.message), run_folder)
    except OSError:  # a full disk must not hide why the run failed
        traceback.print_exc()
    interrupted = status == "interrupted"
    emit(
        Failed(
            time=time.time(),
            message=error.message,
            remedy=error.remedy,
            phase=evidence.phase,
            interrupted=interrupted,
        )
    )
    return ExitCode.INTERRUPTED if interrupted else ExitCode.FAILED


if __name__ == "__main__":
    sys.exit(main())
