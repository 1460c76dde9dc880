"""What to say of a worker that died without a word: how it ended, and the end of its log."""

import signal
from pathlib import Path

from vramplan.planner.cli.render import plain

TAIL_BYTES = 4096


def last_words(exit_status: int, log: Path) -> tuple[str, str]:
    """Message and remedy for a worker that ended on its own.

    Args:
        exit_status: its exit code, negative for the signal that killed it.
        log: worker.log; its last line is quoted.
    """
    ended = f"exit code {exit_status}" if exit_status >= 0 else _signal_name(-exit_status)
    said = _last_line(log)
    message = f"the worker ended without a report ({ended})" + (f": {said}" if said else "")
    if exit_status == -signal.SIGKILL:
        return message, "the system kills a process that way when host memory runs out; see `journalctl -k`"
    return message, f"what it printed is in {log}"


def _signal_name(number: int) -> str:
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"killed by signal {number}"


def _last_line(log: Path) -> str:
    try:
        with log.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return next((text for line in reversed(lines) if (text := plain(line).strip())), "")
