"""The question the other way round: the largest sequence length, micro batch or rank whose verdict is still ``fits``.

Within one regime (one memory program, one number of micro batches a step) what is allocated grows with each of the
three, so halving finds the boundary exactly. Regimes are searched from the largest values down: where a micro batch
has a program of its own, or a step one micro batch less, memory may fall. Reserved memory comes in whole segments and
may fall by one between neighbours, so values above a boundary are tried too, further and further apart.
"""

from collections.abc import Callable, Hashable, Iterator
from functools import cache

from vramplan.planner.candidate import Candidate
from vramplan.planner.values import Value

Price = Callable[[int], Candidate]
"""The price at a value of the option; its verdict is None only where no value has one."""


class Solution(Value):
    """The largest value that fits, between its neighbours."""

    option: str
    """``sequence_length``, ``micro_batch`` or ``rank``."""
    least: int
    most: int
    """Values that make sense: ``least`` to ``most``."""
    value: int | None
    """None: not even ``least`` fits."""
    candidate: Candidate | None
    below: Candidate | None
    """One less."""
    above: Candidate | None
    """One more, which does not fit; None: ``value`` is ``most``. Where nothing fits: ``least``."""


def solve(option: str, price: Price, regime: Callable[[int], Hashable], *, least: int, most: int) -> Solution:
    """Search ``least`` to ``most``.

    Args:
        price: called once a value.
        regime: what must be the same for memory to grow with the value; equal values stand together.
    """
    priced = cache(price)

    def fits(value: int) -> bool:
        return priced(value).verdict == "fits"

    value = next((_largest(fits, *ends) for ends in stretches(regime, least, most) if fits(ends[0])), None)
    if value is None:
        return Solution(
            option=option, least=least, most=most, value=None, candidate=None, below=None, above=priced(least)
        )
    return Solution(
        option=option,
        least=least,
        most=most,
        value=value,
        candidate=priced(value),
        below=priced(value - 1) if value > least else None,
        above=priced(value + 1) if value < most else None,
    )


def stretches(regime: Callable[[int], Hashable], least: int, most: int) -> Iterator[tuple[int, int]]:
    """(first, last) of every stretch of one regime, the highest first.

    >>> list(stretches(lambda value: value == 1, 1, 9))
    [(2, 9), (1, 1)]
    """
    last = most
    while last >= least:
        here = regime(last)
        first = _boundary(lambda value, here=here: regime(value) != here, least - 1, last) + 1  # type: ignore[misc]
        yield first, last
        last = first - 1


def _largest(fits: Callable[[int], bool], first: int, last: int) -> int:
    """The largest value of a stretch that fits; its first does."""
    value = _boundary(fits, first, last + 1)
    step = 1
    while value + 1 + step <= last:
        if fits(value + 1 + step):
            value = _boundary(fits, value + 1 + step, last + 1)
            step = 1
        else:
            step *= 2
    return value


def _boundary(holds: Callable[[int], bool], low: int, high: int) -> int:
    """The last value before it stops holding: at ``low`` it holds, at ``high`` it does not; neither is asked."""
    while high - low > 1:
        middle = (low + high) // 2
        if holds(middle):
            low = middle
        else:
            high = middle
    return low
