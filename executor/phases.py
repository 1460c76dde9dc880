"""Where one training step is: forward, loss, backward, optimizer_step. One seam for every way of measuring.

forward        from the start of a micro batch to the output of the last decoder layer
loss           from there (final norm, head, loss) to the gradient's arrival back at that output
backward       the decoder layers' backward pass, recomputation included
optimizer_step clipping, the optimizer's step, and dropping the gradients

Loading, evaluation, saving and resuming are no part of a step; they are measured as wholes.
"""

from typing import Protocol

from vramplan.planner.memory.budget import PhaseName
from vramplan.planner.values import Value


class Peak(Value):
    """The most bytes seen in one phase."""

    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    tracked_bytes: int | None = None


class PhaseMeter(Protocol):
    """Something that measures memory between marks."""

    measured_step: int
    """The optimizer step (from 1) whose batch, gradients and optimizer states are reported: early enough to be soon,
    late enough that the optimizer's states exist."""

    def begin_step(self, step: int) -> None:
        """An optimizer step (counted from 1) starts now."""

    def begin_micro_batch(self, step: int, index: int, count: int) -> None:
        """Micro batch ``index`` (from 0) of the ``count`` of this step starts now."""

    def mark(self, phase: PhaseName) -> None:
        """From here on the run is in ``phase``; naming the current phase again changes nothing."""

    def end_step(self, step: int) -> None:
        """The optimizer step is over."""

    def begin_outside(self, phase: PhaseName) -> None:
        """A phase that is no part of a step begins, after its mark."""

    def end_outside(self) -> None:
        """That phase is over."""

    def close(self) -> None:
        """The run is over, perhaps in the middle of a step: let go of whatever is running."""

    def peaks(self) -> dict[PhaseName, Peak]:
        """What has been measured so far."""
