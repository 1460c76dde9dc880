"""A setup at a glance: everything that is allocated, and the course of a step, in a few milliseconds.

What takes the time of a full price is left out: the allocator's replay and the names of the tensors at the peak. So
``budget.process_bytes`` is the least the process can hold, and there is no verdict.
"""

from typing import TYPE_CHECKING

from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.memory.timeline import Moment, course_of
from vramplan.planner.values import Value

if TYPE_CHECKING:  # the app holds a glance from its start, and makes one only once a model is chosen
    from vramplan.planner.cli.subject import Subject
    from vramplan.planner.resolve import Resolved


class Glance(Value):
    """What is allocated, phase by phase and along one step."""

    budget: MemoryBudget
    """Without the allocator: what is reserved beyond tensors is counted as nothing."""
    course: tuple[Moment, ...]
    available_bytes: int | None


def glance(subject: "Subject", resolved: "Resolved") -> Glance:
    """The allocated bytes of a resolved setup, from a memory program that is here already.

    Raises:
        NoProgramError: no memory program is here; a full price would trace one.
        UnsupportedError: the setup is understood but not priced yet.
    """
    from vramplan.planner.adapters.calibration_files import find_figures
    from vramplan.planner.adapters.programs import known_program
    from vramplan.planner.cli.subject import key_of
    from vramplan.planner.memory.price import Question
    from vramplan.planner.memory.sharded import check_sharding, pricing_of

    device = subject.device
    route = (device.route if device is not None else None) or "cuda"
    question = Question(subject.model, resolved.workload, resolved.setup, route, device, find_figures(device))
    check_sharding(question)
    pricing = pricing_of(question, known_program(key_of(subject, resolved)).program)
    return Glance(
        budget=pricing.budget(with_tensors=False, with_allocator=False),
        course=course_of(pricing),
        available_bytes=None if device is None else device.available_bytes,
    )
