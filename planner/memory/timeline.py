"""The course of one step: how much is allocated in each stretch of it: embedding, every layer, the head, and back."""

from typing import TYPE_CHECKING

from vramplan.planner.memory.budget import PhaseName
from vramplan.planner.values import Value

if TYPE_CHECKING:  # who only draws a course pays for no pricing
    from vramplan.planner.memory.price import Pricing


class Moment(Value):
    """One stretch of a step: a layer's forward or backward, or what lies before, between and after the layers."""

    phase: PhaseName
    layer: int | None
    allocated_bytes: int
    """At the highest point inside it."""
    lasting_bytes: int
    """Of these, what is there in every stretch: weights, adapter, optimizer states, buffers, the batch."""


def course_of(pricing: "Pricing") -> tuple[Moment, ...]:
    """The last micro batch of a step and the optimizer's step after it, in order.

    The highest moment of a phase is that phase's ``allocated_bytes`` in the budget.
    """
    lasting = sum(pricing.base(gradients=pricing.question.accumulating).values())
    moments = [
        Moment(phase=phase, layer=layer, allocated_bytes=lasting + high, lasting_bytes=lasting)
        for phase, layer, high in pricing.replay.stretches()
    ]
    step = sum(pricing.still_parts()["optimizer_step"].values())
    return (
        *moments,
        Moment(phase="optimizer_step", layer=None, allocated_bytes=step, lasting_bytes=min(step, lasting)),
    )
