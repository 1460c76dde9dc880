"""A run watched on a terminal: its events narrated, what is asked of it passed on, its end as an exit code."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vramplan.executor.events import Failed, Finished, Paused
from vramplan.executor.launcher import Run
from vramplan.executor.progress import Narrator
from vramplan.planner.cli.render import terminal_width
from vramplan.planner.errors import ExitCode


def watch(run: Run) -> ExitCode:
    """Narrate a run to stderr until it ends."""
    narrator = Narrator(sys.stderr.write, live=sys.stderr.isatty(), width=terminal_width())
    code = ExitCode.FAILED
    try:
        with asked_by_signals(run):
            for event in run.events():
                narrator.tell(event)
                if isinstance(event, Paused) and run.is_to_pause:
                    signal.raise_signal(signal.SIGSTOP)  # the shell has its prompt back, and ``fg`` goes on
                elif isinstance(event, Finished):
                    code = ExitCode.OK
                elif isinstance(event, Failed) and event.interrupted:
                    code = ExitCode.INTERRUPTED
    finally:
        narrator.close()
    return code


@contextmanager
def asked_by_signals(run: Run) -> Iterator[None]:
    """Ctrl-Z (SIGTSTP) pauses the run and then this process, SIGCONT goes on with both, SIGUSR1 saves."""
    asks = {signal.SIGTSTP: run.pause, signal.SIGCONT: run.go_on, signal.SIGUSR1: run.checkpoint}
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set signal handlers
        return
    old = {number: signal.getsignal(number) for number in asks if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        for number in old:
            signal.signal(number, lambda caught, frame: asks[signal.Signals(caught)]())
        yield
    finally:
        for number, was in old.items():
            signal.signal(number, was)
