"""An out-of-memory message explained, for a terminal and as JSON."""

import sys
from pathlib import Path
from typing import Any

from vramplan.planner.cli.ledger import phase_words
from vramplan.planner.cli.render import paragraph, table
from vramplan.planner.errors import UsageError
from vramplan.planner.oom import OutOfMemory, findings, read_message
from vramplan.planner.plan import Plan
from vramplan.planner.units import format_bytes

MAX_BYTES = 8 * 1024**2
"""Of a log, the end is read: the message is the last thing a process says."""


def read_oom(name: str) -> OutOfMemory:
    """The last message in a file, or on stdin for ``-``.

    Raises:
        UsageError: the file cannot be read, or holds no such message.
    """
    if name == "-":
        return read_message(sys.stdin.read(MAX_BYTES))
    try:
        with Path(name).open("rb") as file:
            file.seek(max(0, Path(name).stat().st_size - MAX_BYTES))
            return read_message(file.read(MAX_BYTES).decode("utf-8", errors="replace"))
    except OSError as problem:
        raise UsageError(
            f"cannot read {name[-80:]!r}: {problem.strerror or problem}", remedy="name a file, or - for stdin"
        ) from None


def oom_text(oom: OutOfMemory, plan: Plan | None, *, width: int) -> str:
    """The message as a table of who held what, then what it means."""
    rows = [["out of memory", "", ""]]
    where = f"in {phase_words(oom.phase)}" if oom.phase else ""
    for what, size, because in (
        ("asked for", oom.asked_bytes, where),
        (
            "free on the device",
            oom.free_bytes,
            "" if oom.total_bytes is None else f"of {format_bytes(oom.total_bytes)}",
        ),
        ("in tensors", oom.allocated_bytes, "this process, allocated by PyTorch"),
        ("reserved besides", oom.unallocated_bytes, "this process, PyTorch's and in no tensor"),
        ("outside PyTorch", oom.outside_bytes, "this process: CUDA context, libraries"),
        ("other processes", oom.others_bytes, ", ".join(f"process {one.pid}" for one in oom.holders)),
    ):
        if size is not None:
            rows.append([what, format_bytes(size), because])
    notes = [paragraph(finding, width=width, first="- ") for finding in findings(oom, plan)]
    return "\n".join([table(rows, "<><", width=width), *([""] if notes else []), *notes])


def oom_object(oom: OutOfMemory, plan: Plan | None) -> dict[str, Any]:
    """The same as JSON values."""
    derived = {"outside_bytes": oom.outside_bytes, "others_bytes": oom.others_bytes}
    return oom.model_dump(mode="json") | derived | {"findings": list(findings(oom, plan))}
