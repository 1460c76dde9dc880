"""The command's side of a task on a finished run: a child process, what it says, and how it ended."""

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from vramplan.executor.child import Child
from vramplan.executor.environment import worker_environment
from vramplan.executor.events import Event, Failed, parse_event
from vramplan.executor.finished import FinishedRun
from vramplan.executor.last_words import last_words
from vramplan.executor.lock import run_lock
from vramplan.executor.packages import TRAIN_PACKAGES, installed_packages
from vramplan.executor.progress import Narrator
from vramplan.planner.cli.render import terminal_width
from vramplan.planner.device import Device
from vramplan.planner.errors import MissingExtraError, RunError
from vramplan.planner.values import Value

WORKER = (sys.executable, "-P", "-m", "vramplan.executor.finished_worker")
SILENCE_SECONDS = 3600.0
"""Loading or writing a large model says nothing for long."""


def check_libraries() -> None:
    """The training libraries are installed.

    Raises:
        MissingExtraError: they are not.
    """
    here = installed_packages()
    missing = [name for name in TRAIN_PACKAGES if name not in here]
    if missing:
        raise MissingExtraError(f"not installed: {', '.join(missing)}", remedy='pip install "vramplan[train]"')


def carry_out(task: str, request: Value, run: FinishedRun, device: Device | None) -> None:
    """Do a task in a process of its own and narrate it; returns once it is done.

    Raises:
        MissingExtraError: the training libraries are not installed.
        PreflightError: the run's folder is in use.
        RunError: the task failed; with the child's own message and remedy.
    """
    check_libraries()
    narrator = Narrator(sys.stderr.write, live=False, width=terminal_width())
    for event in events(task, request, run, device):
        if isinstance(event, Failed):
            raise RunError(event.message, remedy=event.remedy)
        narrator.tell(event)


def events(task: str, request: Value, run: FinishedRun, device: Device | None) -> Iterator[Event]:
    """What the child says until it ends; a last word is found for one that ends without."""
    log_path = run.folder / f"{task}.log"
    environment = worker_environment(run.plan, device, os.environ)
    with run_lock(run.folder) as lock, log_path.open("wb") as log:
        command = (*WORKER, task, request.model_dump_json())
        child = Child(command, environment, log, (lock,), SILENCE_SECONDS)
        ended = False
        with closing(child.lines()) as lines:
            for line in lines:
                event = parse_event(line.decode("utf-8", "replace"))
                if event is None:
                    log.write(line)
                    continue
                ended = ended or event.event in ("failed", "finished")
                yield event
        if not ended:
            message, remedy = last_words(child.exit_status or 0, Path(log_path))
            raise RunError(message, remedy=remedy)
