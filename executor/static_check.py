"""Static bytes as counted on the live objects, against the plan's lines: these are predicted to the byte."""

from vramplan.planner.memory.budget import STATIC_COMPONENTS, Component, MemoryBudget


def differences(budget: MemoryBudget, counted: dict[Component, int]) -> tuple[str, ...]:
    """One sentence for each static component whose live bytes are not the planned ones.

    A component's planned bytes are its largest line over the phases: gradients, for one, are absent from some.
    """
    sentences = []
    for component in STATIC_COMPONENTS:
        planned = planned_bytes(budget, component)
        found = counted.get(component)
        if found is not None and found != planned:
            sentences.append(f"{component}: {found:,} bytes in memory, {planned:,} planned ({found - planned:+,})")
    return tuple(sentences)


def planned_bytes(budget: MemoryBudget, component: Component) -> int:
    """The largest estimate of one component over all phases; 0 where no phase has it."""
    lines = (line for phase in budget.phases for line in phase.lines if line.component == component)
    return max((line.estimate_bytes for line in lines), default=0)
