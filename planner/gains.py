"""What is gained with more GPUs: each number of them priced for the same tokens a step, and set beside the fewest that
are enough."""

from collections.abc import Callable, Iterable

from vramplan.planner.candidate import Candidate
from vramplan.planner.errors import VramplanError
from vramplan.planner.values import Value

COUNTS = (1, 2, 4, 8)
"""GPUs of one node that are asked about."""
ENOUGH = ("fits", "tight")


class Gain(Value):
    """One number of GPUs."""

    gpus: int
    """Of each node."""
    candidate: Candidate | None
    unpriced_because: str | None = None
    speedup: float | None = None
    """Tokens a second over those of the fewest GPUs that are enough; None where either is not known, or too small."""
    over_gpus: float | None = None
    """GPUs over those fewest: the most the speedup could be."""


def gains(price: Callable[[int], Candidate], counts: Iterable[int] = COUNTS) -> tuple[Gain, ...]:
    """Price each number.

    Args:
        price: the best way to use so many GPUs.

    Raises:
        VramplanError: none of them has a price.
    """
    found: list[Gain] = []
    error: VramplanError | None = None
    for count in counts:
        try:
            found.append(Gain(gpus=count, candidate=price(count)))
        except VramplanError as refused:
            error = refused
            found.append(Gain(gpus=count, candidate=None, unpriced_because=refused.message))
    if error is not None and all(each.candidate is None for each in found):
        raise error
    fewest = next((each.candidate for each in found if _rate(each.candidate) is not None), None)
    return tuple(_beside(each, fewest) for each in found)


def _beside(gain: Gain, fewest: Candidate | None) -> Gain:
    rate, base = _rate(gain.candidate), _rate(fewest)
    if rate is None or base is None or gain.candidate is None or fewest is None:
        return gain
    over = gain.candidate.setup.world_size / fewest.setup.world_size
    return gain.model_copy(update={"speedup": rate / base, "over_gpus": over})


def _rate(candidate: Candidate | None) -> float | None:
    """Tokens a second, of a setup that there is memory for."""
    if candidate is None or candidate.time is None or candidate.verdict not in (*ENOUGH, None):
        return None
    return candidate.time.tokens_per_second.typical
