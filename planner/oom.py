"""PyTorch's out-of-memory message, read: what was asked for, who holds the rest, and what that means.

The text is torch's own (``c10/cuda/CUDACachingAllocator.cpp``), in the form of 1.x and 2.0 (in brackets) and the one
since 2.1 (in sentences). Sizes in it have two decimals, so every figure here is good to half a per cent at best.
"""

import re
from collections.abc import Iterator

from vramplan.planner.errors import UsageError
from vramplan.planner.memory.budget import LiveTensor, PhaseBudget, PhaseName
from vramplan.planner.plan import Plan
from vramplan.planner.units import format_bytes, parse_bytes
from vramplan.planner.values import Value

_SIZE = r"([0-9.]+\s?(?:bytes|[KMGT]iB))"
_START = re.compile(rf"out\s+of\s+memory\.\s+Tried\s+to\s+allocate\s+{_SIZE}", re.IGNORECASE)
_FIGURES = {
    "total_bytes": (rf"total\s+capac(?:i)?ty\s+of\s+{_SIZE}", rf"{_SIZE}\s+total\s+capacity"),
    "free_bytes": (rf"of\s+which\s+{_SIZE}\s+is\s+free", rf"{_SIZE}\s+free"),
    "allowed_bytes": (rf"{_SIZE}\s+allowed",),
    "process_bytes": (rf"this\s+process\s+has\s+{_SIZE}\s+memory\s+in\s+use",),
    "allocated_bytes": (rf"{_SIZE}\s+is\s+allocated\s+by\s+PyTorch", rf"{_SIZE}\s+already\s+allocated"),
    "unallocated_bytes": (rf"{_SIZE}\s+is\s+reserved\s+by\s+PyTorch\s+but\s+unallocated",),
    "reserved_bytes": (rf"{_SIZE}\s+reserved\s+in\s+total", rf"{_SIZE}\s+cached"),
}
_PROCESS = re.compile(rf"Process\s+(\d+)\s+has\s+{_SIZE}\s+memory\s+in\s+use")
_MESSAGE_CHARACTERS = 4000

# What a traceback passes through, the most telling first: evaluation and checkpointing call the forward pass too.
_PHASES: tuple[tuple[PhaseName, str], ...] = (
    ("evaluation", r"in evaluation_loop|in prediction_step|in evaluate\b"),
    ("optimizer_step", r"/torch/optim/|bitsandbytes/optim/|optimizer\.step\("),
    ("backward", r"\.backward\(|_engine_run_backward|in backward\b"),
    ("save", r"in _save_checkpoint|in save_pretrained|in save_model\b"),
    ("load", r"in from_pretrained|_load_state_dict|core_model_loading|in load_state_dict"),
    ("loss", r"cross_entropy|loss_function|loss_utils\.py|lm_head\(|logits\.float"),
    ("forward", r"in forward\b|_call_impl"),
)
REMEDIES: dict[PhaseName, str] = {
    "load": "--method qlora holds the weights in four bits",
    "forward": "--gradient-checkpointing, --micro-batch 1, or a shorter --sequence-length",
    "backward": "--gradient-checkpointing, --micro-batch 1, or a shorter --sequence-length",
    "loss": "--loss fused, or a shorter --sequence-length",
    "optimizer_step": "--optimizer adamw_8bit, or --method lora",
    "evaluation": "--micro-batch 1, or shorter rows in --eval-data",
    "save": "a smaller --rank",
    "resume": "a smaller --rank",
    "merge": "close other programs",
}


class Holder(Value):
    """Another process, as the message names it."""

    pid: int
    held_bytes: int


class OutOfMemory(Value):
    """What one message says; None where it does not say it."""

    asked_bytes: int
    total_bytes: int | None = None
    free_bytes: int | None = None
    allowed_bytes: int | None = None
    """What the process may have, where it was given a fraction of the device."""
    process_bytes: int | None = None
    allocated_bytes: int | None = None
    unallocated_bytes: int | None = None
    """Reserved by PyTorch and in no tensor."""
    holders: tuple[Holder, ...] = ()
    phase: PhaseName | None = None
    """Where the traceback says it was."""

    @property
    def outside_bytes(self) -> int | None:
        """CUDA context, libraries, NCCL: of this process and not PyTorch's."""
        if self.process_bytes is None or self.allocated_bytes is None or self.unallocated_bytes is None:
            return None
        return max(0, self.process_bytes - self.allocated_bytes - self.unallocated_bytes)

    @property
    def others_bytes(self) -> int | None:
        """What neither this process holds nor is free."""
        if self.total_bytes is None or self.free_bytes is None or self.process_bytes is None:
            return None
        return max(0, self.total_bytes - self.free_bytes - self.process_bytes)


def read_message(text: str) -> OutOfMemory:
    """The last out-of-memory message in a text, and the phase its traceback tells.

    Raises:
        UsageError: there is none.
    """
    starts = list(_START.finditer(text))
    if not starts:
        raise UsageError(
            "there is no PyTorch out-of-memory message in this text",
            remedy="paste it from 'CUDA out of memory. Tried to allocate ...', with the traceback above it",
        )
    start = starts[-1]
    message = text[start.start() : start.start() + _MESSAGE_CHARACTERS]
    found = {name: _first(patterns, message) for name, patterns in _FIGURES.items()}
    reserved = found.pop("reserved_bytes")
    if found["unallocated_bytes"] is None and reserved is not None and found["allocated_bytes"] is not None:
        found["unallocated_bytes"] = max(0, reserved - found["allocated_bytes"])
    holders = [Holder(pid=int(pid), held_bytes=_bytes(size)) for pid, size in _PROCESS.findall(message)]
    ours = (found["allocated_bytes"] or 0) + (found["unallocated_bytes"] or 0)
    # in a container torch does not know itself among the driver's processes: only it can hold what it allocated
    if found["process_bytes"] is None and ours:
        itself = next((holder for holder in holders if holder.held_bytes >= ours), None)
        if itself is not None:
            holders.remove(itself)
            found["process_bytes"] = itself.held_bytes
    before = starts[-2].end() if len(starts) > 1 else 0
    return OutOfMemory(
        asked_bytes=_bytes(start[1]), holders=tuple(holders), phase=_phase(text[before : start.start()]), **found
    )


def findings(oom: OutOfMemory, plan: Plan | None = None) -> Iterator[str]:
    """What the figures mean, a sentence each, the decisive one first."""
    free = oom.free_bytes or 0
    if oom.free_bytes is not None and free < oom.asked_bytes:
        yield f"short by {format_bytes(oom.asked_bytes - free)}"
    if oom.unallocated_bytes is not None and oom.unallocated_bytes + free >= oom.asked_bytes:
        yield (
            f"fragmentation: {format_bytes(oom.unallocated_bytes)} were PyTorch's and in no tensor, in pieces too "
            "small; PYTORCH_ALLOC_CONF=expandable_segments:True would have made them one"
        )
    if oom.allowed_bytes is not None:
        yield f"the process was allowed {format_bytes(oom.allowed_bytes)} of the device, by whoever started it"
    if oom.others_bytes is not None and oom.others_bytes + free >= oom.asked_bytes:
        yield f"other processes held {format_bytes(oom.others_bytes)}: without them this would have fitted"
    if oom.phase is not None:
        yield f"it was in {oom.phase.replace('_', ' ')}; what helps there: {REMEDIES[oom.phase]}"
    if plan is not None:
        yield from _beside(oom, plan)


def _beside(oom: OutOfMemory, plan: Plan) -> Iterator[str]:
    """The message beside the plan the run was of."""
    budget = plan.budget
    if oom.allocated_bytes is not None:
        wanted = oom.allocated_bytes + oom.asked_bytes
        phase = next((phase for phase in budget.phases if phase.name == oom.phase), None)
        planned, what = _planned(phase, budget.peak_allocated_bytes)
        above = wanted - planned
        yield (
            f"with it {format_bytes(wanted)} would have been allocated; the plan says {format_bytes(planned)} {what}"
            f"{'' if above <= planned // 100 else f': {format_bytes(above)} are not of this plan'}"
        )
    alike = [tensor for tensor in budget.peak_tensors if _alike(tensor, oom.asked_bytes)]
    if alike:
        names = "; ".join(f"{tensor.label} {tensor.shape}" for tensor in alike[:3])
        yield f"the plan has tensors of the size asked for: {names}"


def _planned(phase: PhaseBudget | None, peak_bytes: int) -> tuple[int, str]:
    if phase is None:
        return peak_bytes, "at its peak"
    return phase.allocated_bytes, f"in {phase.name.replace('_', ' ')}"


def _alike(tensor: LiveTensor, asked_bytes: int) -> bool:
    """Whether one tensor of a kind has the size asked for, as far as two decimals tell."""
    return abs(tensor.total_bytes - asked_bytes * tensor.count) <= tensor.total_bytes / 200


def _phase(traceback: str) -> PhaseName | None:
    return next((name for name, pattern in _PHASES if re.search(pattern, traceback)), None)


def _first(patterns: tuple[str, ...], text: str) -> int | None:
    for pattern in patterns:
        found = re.search(pattern, text)
        if found:
            return _bytes(found[1])
    return None


def _bytes(text: str) -> int:
    try:
        return parse_bytes(text.replace("bytes", "B"))
    except ValueError:
        raise UsageError(f"no size: {text!r}", remedy="paste the message as PyTorch printed it") from None
