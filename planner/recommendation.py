"""Recommendation: what to take, what else is worth a thought, what is ruled out and what would make it fit."""

from typing import Any

from vramplan.planner.candidate import Candidate
from vramplan.planner.objectives import Objectives
from vramplan.planner.values import Value


class Rejected(Value):
    """A method as it was asked for, which does not fit, and the smallest change that would make it fit."""

    candidate: Candidate
    lacks_bytes: int
    would_fit: str | None
    """A flag or two; or a device's size where no change of the setup is enough."""


class Alternative(Value):
    """A setup that fits and that no other beats in memory, time and evidence together."""

    candidate: Candidate
    options: dict[str, Any]
    """What makes it, as ``resolve`` takes it."""
    evidence_tier: int
    """See ``planner.evidence``; 0 is best."""


class Suggestion(Value):
    """A value to start from."""

    name: str
    value: str
    because: str
    source: str


class Searched(Value):
    """How much was looked at."""

    setups: int
    ruled_out_by_bound: int
    """Never priced: what they take at least is too much, or another is better whatever they take."""
    priced: int


class Recommendation(Value):
    """The best setup of each method in order, each with its reasons; the rejected with theirs."""

    ranked: tuple[Candidate, ...]
    reasons: tuple[tuple[str, ...], ...]
    """reasons[i]: why ranked[i] stands where it stands."""
    tiers: tuple[int, ...] = ()
    """tiers[i]: the evidence tier of ranked[i]."""
    options: tuple[dict[str, Any], ...] = ()
    """options[i]: what makes ranked[i], as ``resolve`` takes it."""
    front: tuple[Alternative, ...] = ()
    """From the least memory to the most."""
    rejected: tuple[Rejected, ...]
    ruled_out: tuple[str, ...] = ()
    """Methods that do not meet a need, and which."""
    unpriced: tuple[str, ...] = ()
    """Methods nobody could price here, and why."""
    suggestions: tuple[Suggestion, ...] = ()
    objectives: Objectives = Objectives()
    searched: Searched | None = None
