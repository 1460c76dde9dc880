"""Calibration: what runs on a machine have shown about the figures that nobody can count (planner/memory/outside.py).

    dynamic          how far a peak lay above its estimate, over what lives inside a step
    fragmentation    how far segments beyond tensors lay above their estimate, over all reserved memory
    context          device memory in use beyond what the allocator reserved and other processes held
    workspace        one of cuBLAS's workspaces
    step time        measured over predicted seconds of a step (planner/throughput/calibration.py)

How much evidence narrows a range: of n + 1 comparable runs each is as likely as the others to be the largest, so the
next one exceeds the largest of n with a chance of 1 / (n + 1), whatever the distribution (Vovk, Gammerman, Shafer:
Algorithmic Learning in a Random World, 2005, section 2.2). Below ``ENOUGH`` plans an upper figure is the prior's or the
largest seen, whichever is more; from there on it is the largest seen. So no range is ever narrower than its evidence.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from statistics import median, median_low

from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.memory.outside import PRIOR, Figures
from vramplan.planner.memory.price import is_exact
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.units import format_bytes
from vramplan.planner.values import Value

ENOUGH = 19
"""1 / (19 + 1): at most one run in twenty is expected above the largest of so many."""
LEAST_SHARE = 0.1
"""An error is told as a share of what lives inside a step, and of this share of the peak where that is more: beside
10 GiB of weights a few MiB of activations must not make one MiB a large error."""


class Observation(Value):
    """What running one plan showed; None is not measured, or not comparable with the plan."""

    plan_fingerprint: str
    device: str
    torch: str
    what: str
    """Model and method, for people."""
    measured_at: datetime
    dynamic_excess: float | None = None
    """(measured peak - estimated peak) / what lives inside a step; negative where less was used."""
    fragmentation_excess: float | None = None
    """(measured - estimated segments beyond tensors) / estimated reserved bytes."""
    context_bytes: int | None = None
    workspace_bytes: int | None = None
    step_time_ratio: float | None = None
    """Measured over predicted seconds of a step, the prediction as without any evidence."""


class Change(Value):
    """One figure before and after the evidence."""

    what: str
    prior: str
    now: str
    evidence: str


def observe(plan: Plan, report: RunReport) -> Observation | None:
    """What a report says about the figures its plan was priced with; None where it says nothing.

    Peaks compare only where the measured batch is as large as the planned one, and no rung of the ladder was taken.
    """
    device = report.environment.get("gpu")
    if device is None or report.plan_fingerprint != plan.fingerprint or plan.setup.world_size > 1:
        return None  # beside a rank's context there are NCCL's buffers, and nobody can tell them apart
    found = Observation(
        plan_fingerprint=plan.fingerprint,
        device=device,
        torch=report.packages.get("torch", "unknown"),
        what=f"{plan.model.repo_id}, {plan.setup.method.kind}",
        measured_at=report.ended_at,
        context_bytes=report.outside_bytes,
    )
    if _is_as_planned(plan, report):
        found = found.model_copy(update=_excesses(plan.budget, report))
    told = (found.dynamic_excess, found.fragmentation_excess, found.context_bytes)
    return None if all(value is None for value in told) else found


def merged(before: Observation, after: Observation) -> Observation:
    """A plan counts once, with the worst of its runs."""

    def worst(name: str) -> float | int | None:
        values = [value for each in (before, after) if (value := getattr(each, name)) is not None]
        return max(values, default=None)

    names = ("dynamic_excess", "fragmentation_excess", "context_bytes", "workspace_bytes", "step_time_ratio")
    return after.model_copy(update={name: worst(name) for name in names})


def comparable(observations: Iterable[Observation], device: str, torch: str | None) -> tuple[Observation, ...]:
    """Those of this product with this torch; without one installed, with the torch last measured."""
    here = [each for each in observations if each.device == device]
    wanted = torch or (max(here, key=lambda each: each.measured_at).torch if here else None)
    return tuple(each for each in here if each.torch == wanted)


def fold(observations: Sequence[Observation], prior: Figures = PRIOR) -> Figures:
    """The figures after the evidence; the prior itself without any."""
    dynamic = [each.dynamic_excess for each in observations if each.dynamic_excess is not None]
    segments = [each.fragmentation_excess for each in observations if each.fragmentation_excess is not None]
    contexts = [each.context_bytes for each in observations if each.context_bytes is not None]
    workspaces = [each.workspace_bytes for each in observations if each.workspace_bytes is not None]
    changed: dict[str, object] = {"num_plans": len(observations)}
    if dynamic:
        changed["dynamic_fraction"] = max(0.0, _upper(dynamic, prior.dynamic_fraction))
        changed["dynamic_least_share"] = LEAST_SHARE
        changed["dynamic_source"] = _source(dynamic, observations, f"peaks {max(dynamic):+.1%} of the dynamic part")
    if segments:
        changed["fragmentation_fraction"] = max(0.0, _upper(segments, prior.fragmentation_fraction))
        changed["fragmentation_source"] = _source(segments, observations, f"segments {max(segments):+.1%} of reserved")
    if contexts:
        usual = median_low(contexts)
        changed["context_bytes"] = usual
        changed["high_context_bytes"] = max(usual, int(_upper(contexts, prior.high_context_bytes)))
        changed["context_source"] = _source(contexts, observations, format_bytes(max(contexts)))
    if workspaces:
        changed["workspace_bytes"] = max(workspaces)
        changed["workspace_source"] = _source(workspaces, observations, format_bytes(max(workspaces)))
    changed["step_time_ratios"] = tuple(each.step_time_ratio for each in observations if each.step_time_ratio)
    return prior.model_copy(update=changed)


def changes(figures: Figures, prior: Figures = PRIOR) -> tuple[Change, ...]:
    """What the evidence has changed, in words."""
    rows = (
        ("context", _size_words(prior.context_bytes, prior.high_context_bytes),
         _size_words(figures.context_bytes, figures.high_context_bytes), figures.context_source),
        ("what lives inside a step", f"up to {prior.dynamic_fraction:+.1%}", f"up to {figures.dynamic_fraction:+.1%}",
         figures.dynamic_source),
        ("segments beyond tensors", f"up to {prior.fragmentation_fraction:+.1%} of reserved",
         f"up to {figures.fragmentation_fraction:+.1%} of reserved", figures.fragmentation_source),
        ("cuBLAS workspace", "as PyTorch's source has it",
         "as PyTorch's source has it" if figures.workspace_bytes is None else format_bytes(figures.workspace_bytes),
         figures.workspace_source),
        ("step time", "as fitted on published runs", _ratio_words(figures.step_time_ratios),
         f"{len(figures.step_time_ratios)} timed" if figures.step_time_ratios else "none timed"),
    )  # fmt: skip
    return tuple(Change(what=what, prior=before, now=now, evidence=evidence) for what, before, now, evidence in rows)


def _ratio_words(ratios: Sequence[float]) -> str:
    if not ratios:
        return "as fitted on published runs"
    return f"x {median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _is_as_planned(plan: Plan, report: RunReport) -> bool:
    shape = report.measured_shape
    return (
        not report.ladder
        and report.setup == plan.setup
        and shape is not None
        and shape.get("sequence_length") == plan.workload.sequence_length
        and shape.get("micro_batch_size") == plan.setup.micro_batch_size
    )


def _excesses(budget: MemoryBudget, report: RunReport) -> dict[str, float | None]:
    """Loading apart, whose peak is over before the rest begins and is no part of the planned one."""
    running = [phase for phase in report.phases if phase.name != "load"]
    allocated = max((phase.allocated_bytes for phase in running if phase.allocated_bytes is not None), default=None)
    reserved = max((phase.reserved_bytes for phase in running if phase.reserved_bytes is not None), default=None)
    peak = next(phase for phase in budget.phases if phase.name == budget.peak_phase)
    dynamic = sum(line.estimate_bytes for line in peak.lines if not is_exact(line.component))
    found: dict[str, float | None] = {}
    if allocated is not None:
        base = max(dynamic, LEAST_SHARE * budget.peak_allocated_bytes)
        found["dynamic_excess"] = (allocated - budget.peak_allocated_bytes) / base
    if allocated is not None and reserved is not None:
        planned = budget.peak_reserved_bytes - budget.peak_allocated_bytes
        found["fragmentation_excess"] = (reserved - allocated - planned) / budget.peak_reserved_bytes
    return found


def _upper(seen: Sequence[float], prior: float) -> float:
    """The largest seen, and no less than the prior while too few were."""
    return max(seen) if len(seen) >= ENOUGH else max(prior, *seen)


def _source(values: Sequence[float], observations: Sequence[Observation], largest: str) -> str:
    plans = "1 plan" if len(values) == 1 else f"{len(values)} plans"
    newest = max(observations, key=lambda each: each.measured_at)
    kept = "" if len(values) >= ENOUGH else f"; the range is kept until {ENOUGH} have been"
    return f"{plans} run on {newest.device} with torch {newest.torch}, at most {largest}{kept}"


def _size_words(usual: int, high: int) -> str:
    return f"{format_bytes(usual)}, up to {format_bytes(high)}"
