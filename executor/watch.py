"""A run watched on a terminal: its events narrated, its end as an exit code."""

import sys

from vramplan.executor.events import Failed, Finished
from vramplan.executor.launcher import Run
from vramplan.executor.progress import Narrator
from vramplan.planner.cli.render import terminal_width
from vramplan.planner.errors import ExitCode


def watch(run: Run) -> ExitCode:
    """Narrate a run to stderr until it ends."""
    narrator = Narrator(sys.stderr.write, live=sys.stderr.isatty(), width=terminal_width())
    code = ExitCode.FAILED
    try:
        for event in run.events():
            narrator.tell(event)
            if isinstance(event, Finished):
                code = ExitCode.OK
            elif isinstance(event, Failed) and event.interrupted:
                code = ExitCode.INTERRUPTED
    finally:
        narrator.close()
    return code
