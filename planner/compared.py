"""Compared: an estimate beside what was measured for it. error = actual - estimate; nothing measured is None."""

from vramplan.planner.values import Value


class Compared(Value):
    """An estimate and what was measured for it."""

    estimate_bytes: int | None
    """None: measured, but nobody estimated it."""
    high_bytes: int | None
    actual_bytes: int | None = None

    @property
    def error_bytes(self) -> int | None:
        """actual - estimate."""
        if self.actual_bytes is None or self.estimate_bytes is None:
            return None
        return self.actual_bytes - self.estimate_bytes

    @property
    def error_fraction(self) -> float | None:
        """The error as a share of the estimate; None where the estimate is 0.

        >>> Compared(estimate_bytes=200, high_bytes=220, actual_bytes=210).error_fraction
        0.05
        """
        if self.error_bytes is None or not self.estimate_bytes:
            return None
        return self.error_bytes / self.estimate_bytes

    @property
    def above_high(self) -> bool:
        """More was used than the most we would have bet on."""
        return self.actual_bytes is not None and self.high_bytes is not None and self.actual_bytes > self.high_bytes
