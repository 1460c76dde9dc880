"""What to say of a worker that died without a word: how it ended, and the end of its log."""

import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

from vramplan.executor.events import Failed
from vramplan.planner.cli.render import plain

TAIL_BYTES = 4096


def first_cause(words: Sequence[Failed], exit_statuses: Mapping[int, int]) -> Failed | int | None:
    """Why an attempt of one or several processes failed: the word that says so, or the rank that died without one.

    A rank that only lost another is not to blame, and one that was ended by the agent (SIGTERM) neither.

    Args:
        words: what the processes said last, in the order it was heard.
        exit_statuses: by rank, of those that did not end well.
    """
    own = sorted((word for word in words if not word.lost_peer and not word.interrupted), key=lambda word: word.rank)
    if own:
        return own[0]
    spoke = {word.rank for word in words}
    silent = [rank for rank, status in exit_statuses.items() if rank not in spoke and status != -signal.SIGTERM]
    if silent and not any(word.interrupted for word in words):
        return min(silent)
    return words[0] if words else None


def last_words(exit_status: int, log: Path, *, rank: int | None = None) -> tuple[str, str]:
    """Message and remedy for a worker that ended on its own.

    Args:
        exit_status: its exit code, negative for the signal that killed it.
        log: worker.log; its last line is quoted.
        rank: which of several processes it was; the log's last line is then another's.
    """
    ended = f"exit code {exit_status}" if exit_status >= 0 else _signal_name(-exit_status)
    said = _last_line(log) if rank is None else ""
    who = "the worker" if rank is None else f"rank {rank}"
    message = f"{who} ended without a report ({ended})" + (f": {said}" if said else "")
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
