"""What differs between two plans, option by option, as a person would say it."""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.plan import Plan
from vramplan.planner.units import format_bytes
from vramplan.planner.values import Value

ABSENT = "–"
_SECTIONS = ("workload", "setup", "recipe", "packages")


class Difference(Value):
    """One thing that two plans say differently."""

    name: str
    mine: str
    theirs: str


def differences(mine: Plan, theirs: Plan) -> tuple[Difference, ...]:
    """What is not the same: model, device, data, every option, the estimate and the verdict; empty: the same plan.

    What identifies a file and not a choice (when it was made, by which version, its fingerprint) is left out.
    """
    ours, others = dict(_facts(mine)), dict(_facts(theirs))
    names = dict.fromkeys((*ours, *others))
    return tuple(
        Difference(name=name, mine=ours.get(name, ABSENT), theirs=others.get(name, ABSENT))
        for name in names
        if ours.get(name, ABSENT) != others.get(name, ABSENT)
    )


def _facts(plan: Plan) -> Iterator[tuple[str, str]]:
    yield "model", plan.model.path or plan.model.repo_id
    yield "revision", plan.model.revision or ABSENT
    yield "device", ABSENT if plan.device is None else plan.device.name
    yield "data", ABSENT if plan.data is None else plan.data.path
    yield "data sha256", ABSENT if plan.data is None else plan.data.sha256[:12]
    for section in _SECTIONS:
        yield from _flat(section, plan.model_dump(mode="json")[section])
    budget = plan.budget
    yield "process", format_bytes(budget.process_bytes)
    yield "process, up to", format_bytes(budget.high_process_bytes)
    yield "peak allocated", f"{format_bytes(budget.peak_allocated_bytes)} in {budget.peak_phase.replace('_', ' ')}"
    yield "verdict", plan.verdict or ABSENT


def _flat(name: str, content: Any) -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(f"{name}.{key}", value)
    elif content is not None:
        yield name, str(content)
