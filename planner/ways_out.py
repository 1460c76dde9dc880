"""What does not fit, and the smallest change that would make it fit.

Tried in this order: one choice of the setup changed, then two and more; a shorter sequence; another method; a device
with more memory.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vramplan.planner.candidate import Candidate
from vramplan.planner.errors import UsageError
from vramplan.planner.merits import fewest_changes
from vramplan.planner.recommendation import Rejected
from vramplan.planner.resolve import Resolved
from vramplan.planner.space import Cell, Subject
from vramplan.planner.units import GIB

SHORTEST_SEQUENCE = 128
PriceOf = Callable[[Cell], Candidate | None]


def rejected(
    asked: Sequence[Cell],
    best: Sequence[Cell],
    cells: Sequence[Cell],
    price: PriceOf,
    may_fit: Callable[[Cell], bool],
    subject: Subject,
) -> Iterator[Rejected]:
    """The methods that do not fit as they were asked for, the nearest miss first.

    Args:
        best: the best cell of each method that has one, best first.
        may_fit: False where a cell certainly does not.
    """
    refused = [
        (cell, candidate) for cell in asked if (candidate := price(cell)) is not None and candidate.verdict == "no"
    ]
    for cell, candidate in sorted(refused, key=lambda each: _lacks(each[1])):
        own = [other for other in cells if other.kind == cell.kind and other.changes]
        yield Rejected(
            candidate=candidate,
            lacks_bytes=_lacks(candidate),
            would_fit=_changed(own, price, may_fit)
            or _shorter(cell, price, subject, may_fit)
            or _other_method(cell, best, price)
            or _larger_device(candidate),
        )


def _lacks(candidate: Candidate) -> int:
    return 0 if candidate.headroom_bytes is None else -candidate.headroom_bytes


def _changed(own: Sequence[Cell], price: PriceOf, may_fit: Callable[[Cell], bool]) -> str | None:
    """The flags of the cell that fits with the fewest changes."""
    for cell in fewest_changes(own):
        if may_fit(cell) and _fits(price(cell)):
            return " ".join(flags(cell))
    return None


def flags(cell: Cell) -> list[str]:
    """A cell's changes as they are typed.

    >>> from types import SimpleNamespace
    >>> given = {"gradient_checkpointing": True, "rank": 8}
    >>> flags(SimpleNamespace(changes=("gradient_checkpointing", "rank"), given=given))
    ['--gradient-checkpointing', '--rank 8']
    """
    return [_flag(name, cell.given[name]) for name in cell.changes]


def _flag(name: str, value: Any) -> str:
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{flag}" if value else f"--no-{flag}"
    return f"--{flag} {value}"


def _shorter(cell: Cell, price: PriceOf, subject: Subject, may_fit: Callable[[Cell], bool]) -> str | None:
    """The longest halving of the sequence length at which it fits."""
    length = cell.workload.sequence_length // 2
    while length >= SHORTEST_SEQUENCE:
        given = {**cell.given, "sequence_length": length}
        try:
            resolved: Resolved = subject.resolve(given)
        except UsageError:
            return None
        shorter = Cell(given, resolved.workload, resolved.setup, ("sequence_length",))
        if may_fit(shorter) and _fits(price(shorter)):
            return f"--sequence-length {length}"
        length //= 2
    return None


def _other_method(cell: Cell, best: Sequence[Cell], price: PriceOf) -> str | None:
    other = next((each for each in best if each.kind != cell.kind and _fits(price(each))), None)
    return None if other is None else " ".join([f"--method {other.kind}", *flags(other)])


def _fits(candidate: Candidate | None) -> bool:
    return candidate is not None and candidate.verdict == "fits"


def _larger_device(candidate: Candidate) -> str:
    needed = -(-candidate.budget.high_process_bytes // GIB)
    return f"a device with {needed} GiB free"
