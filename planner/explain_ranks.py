"""What each of several ranks held, beside the budget of one: the plan's is that of the rank that holds most."""

from collections.abc import Iterator

from vramplan.planner.compared import Compared
from vramplan.planner.memory.budget import STATIC_COMPONENTS, Component
from vramplan.planner.plan import Plan
from vramplan.planner.report import MeasuredRank, RunReport
from vramplan.planner.units import format_bytes
from vramplan.planner.values import Value


class ExplainedRank(Value):
    """One rank: its peak, what lasts (weights, gradients, states), and what it took of its device."""

    rank: int
    allocated: Compared
    reserved: Compared
    static: Compared
    process: Compared


def explained_ranks(plan: Plan, report: RunReport | None) -> tuple[ExplainedRank, ...]:
    """Every rank that told; none for one process."""
    return () if report is None else tuple(_explained(plan, each) for each in report.ranks)


def of_report(report: RunReport, rank: int) -> MeasuredRank:
    """A process's own report as a row of the whole."""
    names = ("measured_shape", "static", "phases", "peak_allocated_bytes", "peak_reserved_bytes", "process_bytes")
    return MeasuredRank(
        rank=rank, energy_joules=report.energy_joules, **{name: getattr(report, name) for name in names}
    )


def rank_remarks(plan: Plan, ranks: tuple[ExplainedRank, ...]) -> Iterator[str]:
    """Ranks that did not tell, and the one that held most."""
    world = plan.setup.world_size
    if world > 1 and len(ranks) < world:
        yield f"{len(ranks)} of {world} ranks told what they held"
    measured = [each for each in ranks if each.allocated.actual_bytes is not None]
    if len(measured) > 1:
        worst = max(measured, key=lambda each: each.allocated.actual_bytes or 0)
        least = min(each.allocated.actual_bytes or 0 for each in measured)
        apart = (worst.allocated.actual_bytes or 0) - least
        if apart == 0:
            return
        yield f"rank {worst.rank} held most, {format_bytes(apart)} more than the one that held least"


def _explained(plan: Plan, rank: MeasuredRank) -> ExplainedRank:
    budget = plan.budget
    peak = next(phase for phase in budget.phases if phase.name == budget.peak_phase)
    static = _planned_static(plan)
    counted = [rank.static[name] for name in static if name in rank.static]
    return ExplainedRank(
        rank=rank.rank,
        allocated=Compared(
            estimate_bytes=budget.peak_allocated_bytes,
            high_bytes=sum(line.high_bytes for line in peak.lines),
            actual_bytes=rank.peak_allocated_bytes,
        ),
        reserved=Compared(
            estimate_bytes=budget.peak_reserved_bytes,
            high_bytes=budget.high_reserved_bytes,
            actual_bytes=rank.peak_reserved_bytes,
        ),
        static=Compared(
            estimate_bytes=sum(static.values()),
            high_bytes=sum(static.values()),
            actual_bytes=sum(counted) if counted else None,
        ),
        process=Compared(
            estimate_bytes=budget.process_bytes, high_bytes=budget.high_process_bytes, actual_bytes=rank.process_bytes
        ),
    )


def _planned_static(plan: Plan) -> dict[Component, int]:
    """By component, in the optimizer's step, where all of it is there."""
    step = next((phase for phase in plan.budget.phases if phase.name == "optimizer_step"), None)
    lines = step.lines if step is not None else ()
    return {line.component: line.estimate_bytes for line in lines if line.component in STATIC_COMPONENTS}
