"""Why a setup stands where it stands, in sentences with their sources."""

from collections.abc import Sequence

from vramplan.planner.candidate import Candidate
from vramplan.planner.evidence import Data, evidence_for, optimizer_evidence
from vramplan.planner.merits import leaves_no_room
from vramplan.planner.methods import trains_base
from vramplan.planner.objectives import Objectives
from vramplan.planner.units import format_bytes, format_count


def reasons_for(
    candidate: Candidate, data: Data, objectives: Objectives, siblings: Sequence[Candidate]
) -> tuple[str, ...]:
    """Why this candidate, in a few sentences; ``siblings`` are others that were priced."""
    texts = (
        _room(candidate),
        _method(candidate, data, objectives),
        _tasks(candidate, objectives),
        _checkpointing(candidate, siblings),
        _optimizer(candidate),
        _speed(candidate),
    )
    return tuple(text for text in texts if text)


def _room(candidate: Candidate) -> str:
    budget, headroom = candidate.budget, candidate.headroom_bytes
    if candidate.verdict == "fits" and headroom is not None:
        spare = f"fits with {format_bytes(headroom)} to spare"
        if leaves_no_room(candidate.device, budget.high_process_bytes):
            return f"{spare}, less than a desktop may take (--reserve)"
        return spare
    if candidate.verdict == "tight" and candidate.available_bytes is not None:
        return (
            f"tight: {format_bytes(budget.process_bytes)} expected, up to {format_bytes(budget.high_process_bytes)}"
            f" of {format_bytes(candidate.available_bytes)}"
        )
    return f"needs up to {format_bytes(budget.high_process_bytes)}; no verdict: {candidate.verdict_reason}"


def _method(candidate: Candidate, data: Data, objectives: Objectives) -> str:
    evidence = evidence_for(
        candidate.setup.method,
        task=candidate.workload.task,
        data=data,
        keep_knowledge=objectives.keep_knowledge,
    )
    trains = f"{format_count(candidate.trainable_params)} parameters train"
    return f"{trains}: {evidence.claim} ({evidence.source})"


def _tasks(candidate: Candidate, objectives: Objectives) -> str | None:
    if objectives.num_tasks == 1 or trains_base(candidate.setup.method):
        return None
    size = format_bytes(4 * candidate.trainable_params)
    return (
        f"{objectives.num_tasks} tasks share one base: an adapter of about {size} each, switched without loading the "
        "base again"
    )


def _checkpointing(candidate: Candidate, siblings: Sequence[Candidate]) -> str | None:
    other = next((sibling for sibling in siblings if differs_only_in_checkpointing(candidate, sibling)), None)
    if other is None:
        return None
    saved = abs(other.budget.process_bytes - candidate.budget.process_bytes)
    if candidate.setup.gradient_checkpointing:
        return f"checkpointing saves {format_bytes(saved)} for one more forward pass a step (arXiv:1604.06174)"
    return f"no checkpointing: {format_bytes(saved)} more, one forward pass a step less (arXiv:1604.06174)"


def _optimizer(candidate: Candidate) -> str | None:
    optimizer = candidate.setup.optimizer
    if optimizer.startswith("adamw_torch"):
        return None
    evidence = optimizer_evidence(optimizer)
    return f"{evidence.claim} ({evidence.source})"


def _speed(candidate: Candidate) -> str | None:
    time = candidate.time
    if time is None:
        return None
    seconds = time.seconds
    return f"a step takes {seconds.low:.2g} to {seconds.high:.2g} s ({time.tokens_per_second.typical:,.0f} tokens/s)"


def differs_only_in_checkpointing(one: Candidate, other: Candidate) -> bool:
    """The same setup but for gradient checkpointing."""
    flipped = not one.setup.gradient_checkpointing
    return other.setup == one.setup.model_copy(update={"gradient_checkpointing": flipped})
