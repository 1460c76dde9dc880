"""Explanation: a plan's budget line by line, and beside it, when there is a report, what really happened.

Nothing measured is None, never 0. Allocated, reserved and process figures are never compared with each other.
"""

from collections.abc import Iterable

from vramplan.planner.compared import Compared as Compared
from vramplan.planner.errors import StalePlanError
from vramplan.planner.explain_ranks import ExplainedRank, explained_ranks, rank_remarks
from vramplan.planner.memory.budget import STATIC_COMPONENTS, BudgetLine, Component, LiveTensor, PhaseBudget, PhaseName
from vramplan.planner.plan import Plan
from vramplan.planner.report import MeasuredPhase, RunReport
from vramplan.planner.values import Value

_COMPLETE_IN: dict[Component, tuple[PhaseName, ...]] = {
    "gradients": ("optimizer_step",),
    "optimizer": ("optimizer_step",),
}
"""Where a static component that grows during a step is there in full; the others are, in every phase after loading."""


class ExplainedLine(Compared):
    """One budget line, with the bytes counted on the live modules where the component is static."""

    component: Component
    bytes_per_param: float
    because: str
    source: str | None = None


class ExplainedPhase(Compared):
    """One phase: its allocated peak, and the same peak by the dispatch-mode tracker when that ran too."""

    name: PhaseName
    tracked_bytes: int | None = None
    lines: tuple[ExplainedLine, ...] = ()


class ExplainedFigure(Compared):
    """One figure of the whole run: peak allocated, peak reserved, process."""

    name: str
    tracked_bytes: int | None = None


class Explanation(Value):
    """A plan read back, joined with its report when there is one."""

    plan: Plan
    report: RunReport | None
    figures: tuple[ExplainedFigure, ...]
    phases: tuple[ExplainedPhase, ...]
    process_lines: tuple[ExplainedLine, ...]
    peak_tensors: tuple[LiveTensor, ...]
    ranks: tuple[ExplainedRank, ...] = ()
    """Of several processes, each that told."""
    remarks: tuple[str, ...]


def explain(plan: Plan, report: RunReport | None = None) -> Explanation:
    """EXPLAIN without a report, EXPLAIN ANALYZE with one.

    Raises:
        StalePlanError: the report belongs to another plan.
    """
    if report is not None and report.plan_fingerprint != plan.fingerprint:
        raise StalePlanError(
            f"the report is of plan {report.plan_fingerprint[:12]}, this is plan {plan.fingerprint[:12]}",
            remedy="give the report that lies beside this plan",
        )
    budget, ranks = plan.budget, explained_ranks(plan, report)
    measured = {phase.name: phase for phase in report.phases} if report else {}
    phases = [_phase(phase, measured.get(phase.name), report) for phase in budget.phases]
    planned = {phase.name for phase in budget.phases}
    phases += [_unplanned(phase) for name, phase in measured.items() if name not in planned]
    return Explanation(
        plan=plan,
        report=report,
        figures=_figures(plan, report),
        phases=tuple(phases),
        process_lines=tuple(_line(line, None) for line in budget.process_lines),
        peak_tensors=budget.peak_tensors,
        ranks=ranks,
        remarks=(*_remarks(plan, report), *rank_remarks(plan, ranks)) if report else (),
    )


def _figures(plan: Plan, report: RunReport | None) -> tuple[ExplainedFigure, ...]:
    budget = plan.budget
    high_allocated = sum(
        line.high_bytes for phase in budget.phases if phase.name == budget.peak_phase for line in phase.lines
    )
    tracked = [phase.tracked_bytes for phase in report.phases if phase.tracked_bytes is not None] if report else []
    rows = (
        ("peak allocated", budget.peak_allocated_bytes, high_allocated, report and report.peak_allocated_bytes),
        (
            "peak reserved",
            budget.peak_reserved_bytes,
            budget.high_reserved_bytes,
            report and report.peak_reserved_bytes,
        ),
        ("process", budget.process_bytes, budget.high_process_bytes, report and report.process_bytes),
    )
    return tuple(
        ExplainedFigure(
            name=name,
            estimate_bytes=estimate,
            high_bytes=high,
            actual_bytes=actual,
            tracked_bytes=max(tracked, default=None) if name == "peak allocated" else None,
        )
        for name, estimate, high, actual in rows
    )


def _phase(phase: PhaseBudget, measured: MeasuredPhase | None, report: RunReport | None) -> ExplainedPhase:
    return ExplainedPhase(
        name=phase.name,
        estimate_bytes=phase.allocated_bytes,
        high_bytes=sum(line.high_bytes for line in phase.lines),
        actual_bytes=measured.allocated_bytes if measured else None,
        tracked_bytes=measured.tracked_bytes if measured else None,
        lines=tuple(_line(line, _counted(line.component, phase.name, report)) for line in phase.lines),
    )


def _unplanned(measured: MeasuredPhase) -> ExplainedPhase:
    return ExplainedPhase(
        name=measured.name,
        estimate_bytes=None,
        high_bytes=None,
        actual_bytes=measured.allocated_bytes,
        tracked_bytes=measured.tracked_bytes,
    )


def _counted(component: Component, phase: PhaseName, report: RunReport | None) -> int | None:
    """The static bytes counted on the live modules, in the phases where all of them are there."""
    if report is None or component not in STATIC_COMPONENTS or phase == "load":
        return None
    if phase not in _COMPLETE_IN.get(component, (phase,)):
        return None
    return report.static.get(component)


def _line(line: BudgetLine, actual_bytes: int | None) -> ExplainedLine:
    return ExplainedLine(
        component=line.component,
        estimate_bytes=line.estimate_bytes,
        high_bytes=line.high_bytes,
        actual_bytes=actual_bytes,
        bytes_per_param=line.bytes_per_param,
        because=line.because,
        source=line.source,
    )


def _remarks(plan: Plan, report: RunReport) -> Iterable[str]:
    yield f"measured by {report.measured_by}"
    if report.status != "done":
        yield f"the run {'failed' if report.status == 'failed' else 'was interrupted'} after {report.steps} steps" + (
            f": {report.failure}" if report.failure else ""
        )
    for rung in report.ladder:
        where = "" if rung.phase is None else f" in {rung.phase.replace('_', ' ')} of step {rung.step + 1}"
        yield f"out of memory{where}, so it went on with {rung.change}"
    if report.resumed_from_step is not None:
        yield f"went on from the checkpoint of step {report.resumed_from_step}"
    for name, planned in sorted(plan.packages.items()):
        found = report.packages.get(name)
        if found is not None and found != planned:
            yield f"priced for {name} {planned}, run with {name} {found}"
    lines = {line.component for phase in plan.budget.phases for line in phase.lines}
    for component in sorted(set(report.static) - lines):
        if report.static[component]:
            yield f"{component.replace('_', ' ')} was counted at {report.static[component]} bytes; the plan has no line"
