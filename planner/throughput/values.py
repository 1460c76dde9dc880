"""StepTime: how long an optimizer step takes. RunCost: what a whole run takes of hours, energy and money."""

from typing import Literal

from vramplan.planner.values import Value

TimePhase = Literal["forward", "loss", "backward", "optimizer_step", "communication"]


class Range(Value):
    """The middle of an estimate and its ends."""

    low: float
    typical: float
    high: float

    def times(self, factor: float) -> "Range":
        """Every end multiplied.

        >>> Range(low=1.0, typical=2.0, high=4.0).times(2)
        Range(low=2.0, typical=4.0, high=8.0)
        """
        return Range(low=self.low * factor, typical=self.typical * factor, high=self.high * factor)


class TimeLine(Value):
    """One phase of an optimizer step, over all its micro batches."""

    phase: TimePhase
    seconds: float
    because: str
    """What it is made of, in words."""


class StepTime(Value):
    """One optimizer step on one device. ``lines`` sum to ``seconds.typical``."""

    seconds: Range
    lines: tuple[TimeLine, ...]
    tokens_per_step: int
    """Positions that pass through the model, padding among them and virtual tokens not."""
    tokens_per_second: Range
    model_flops: int
    """What the method needs of a step: no recomputation."""
    device_flops: int
    """What the device does: recomputation with it."""
    peak_flops_per_second: int
    """The profile's dense rate in the dtype the products run in."""
    mfu: float
    """model_flops / typical seconds / peak: model FLOPs utilisation (Chowdhery et al., 2022, arXiv:2204.02311, B)."""
    basis: str


class RunCost(Value):
    """A whole run; a figure is None where what it rests on is not known."""

    steps: int | None = None
    hours: Range | None = None
    kilowatt_hours: Range | None = None
    usd: Range | None = None
    usd_per_hour: float | None = None
    price_basis: str | None = None
    """Where the price comes from, with its date."""
    unknown_because: tuple[str, ...] = ()
    """What is missing, and the option that gives it."""
