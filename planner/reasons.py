"""Why a setup stands where it stands, in sentences with their sources.

Which method comes first follows from the data. An adapter stores about 2 bits a trained parameter
(arXiv:2404.05405) and a token of text carries at most about 1 bit to learn (Schulman et al., LoRA Without Regret,
2025, thinkingmachines.ai/blog/lora):
while the data holds fewer tokens than twice the trained parameters, LoRA learns what full fine-tuning learns and
forgets less of what the model knew (arXiv:2405.09673). Beyond that, full fine-tuning learns more.
"""

from collections.abc import Sequence
from typing import Literal

from vramplan.planner.candidate import Candidate
from vramplan.planner.units import GIB, format_bytes, format_count

Data = Literal["unknown", "small", "large"]
BITS_PER_PARAMETER = 2
DESKTOP_BYTES = 2 * GIB
"""What a desktop session may take of a card; it takes 1 to 2 GiB."""
ORDER: dict[Data, tuple[str, ...]] = {
    "unknown": ("lora", "qlora", "adapter", "full"),
    "small": ("lora", "qlora", "adapter", "full"),
    "large": ("full", "lora", "qlora", "adapter"),
}
"""Methods, preferred first; any other comes last. QLoRA comes after LoRA: it learns the same and unpacks weights at
every use; bottleneck adapters after both: they cannot be merged."""


def rank_of(method: str, data: Data) -> int:
    """Where a method stands, from 0."""
    order = ORDER[data]
    return order.index(method) if method in order else len(order)


def data_size(max_tokens: int | None, adapter_params: int | None) -> Data:
    """Whether an adapter can hold what the data teaches.

    Args:
        max_tokens: rows times the sequence length, an upper bound; None without a training file.
        adapter_params: trained parameters of the adapter; None where none was priced.

    >>> data_size(898 * 1024, 41_943_040), data_size(10**9, 41_943_040), data_size(None, 41_943_040)
    ('small', 'large', 'unknown')
    """
    if max_tokens is None or adapter_params is None:
        return "unknown"
    return "small" if max_tokens <= BITS_PER_PARAMETER * adapter_params else "large"


def leaves_no_room(candidate: Candidate) -> bool:
    """It fits on an empty card of a kind that is not here, but not beside a desktop."""
    device, headroom = candidate.device, candidate.headroom_bytes
    if device is None or headroom is None or device.source == "reading":
        return False
    return headroom + device.reserve_bytes < DESKTOP_BYTES


def reasons_for(candidate: Candidate, data: Data, siblings: Sequence[Candidate]) -> tuple[str, ...]:
    """Why this candidate, in a few sentences; ``siblings`` are all that were priced."""
    reasons = [_room(candidate), _method(candidate, data)]
    reasons += [text for text in (_checkpointing(candidate, siblings), _optimizer(candidate)) if text]
    return tuple(reasons)


def _room(candidate: Candidate) -> str:
    budget, headroom = candidate.budget, candidate.headroom_bytes
    if candidate.verdict == "fits" and headroom is not None:
        spare = f"fits with {format_bytes(headroom)} to spare"
        return f"{spare}, less than a desktop may take (--reserve)" if leaves_no_room(candidate) else spare
    if candidate.verdict == "tight" and candidate.available_bytes is not None:
        return (
            f"tight: {format_bytes(budget.process_bytes)} expected, up to {format_bytes(budget.high_process_bytes)}"
            f" of {format_bytes(candidate.available_bytes)}"
        )
    return f"needs up to {format_bytes(budget.high_process_bytes)}; no verdict: {candidate.verdict_reason}"


def _method(candidate: Candidate, data: Data) -> str:
    kind = candidate.setup.method.kind
    trains = f"{format_count(candidate.trainable_params)} parameters train"
    if kind == "full":
        if data == "large":
            return "full fine-tuning: the data may hold more than an adapter can learn (arXiv:2404.05405)"
        return "full fine-tuning learns no more than LoRA from little data, and forgets more (arXiv:2405.09673)"
    if kind == "qlora":
        return f"{trains} on a 4-bit base: learns what 16-bit LoRA learns (arXiv:2305.14314), a step takes longer"
    if kind == "adapter":
        return f"{trains} in bottlenecks: near full fine-tuning (arXiv:1902.00751), but never merged into the model"
    if kind != "lora":
        return f"{trains}, by --method {kind} as asked"
    if data == "large":
        return f"{trains}: the data may hold more than they can learn (arXiv:2404.05405)"
    if data == "small":
        return f"{trains}, enough for this data: learns what full fine-tuning learns (LoRA Without Regret, 2025)"
    return f"{trains}: on small and middling data LoRA learns what full fine-tuning learns (LoRA Without Regret, 2025)"


def _checkpointing(candidate: Candidate, siblings: Sequence[Candidate]) -> str | None:
    other = next((sibling for sibling in siblings if differs_only_in_checkpointing(candidate, sibling)), None)
    if other is None:
        return None
    saved = abs(other.budget.process_bytes - candidate.budget.process_bytes)
    if candidate.setup.gradient_checkpointing:
        return f"checkpointing saves {format_bytes(saved)} for one more forward pass a step (arXiv:1604.06174)"
    return f"no checkpointing: {format_bytes(saved)} more, one forward pass a step less (arXiv:1604.06174)"


def _optimizer(candidate: Candidate) -> str | None:
    if "8bit" in candidate.setup.optimizer:
        return "8-bit optimizer states, as good as 32-bit ones in arXiv:2110.02861"
    return None


def differs_only_in_checkpointing(one: Candidate, other: Candidate) -> bool:
    """The same setup but for gradient checkpointing."""
    flipped = not one.setup.gradient_checkpointing
    return other.setup == one.setup.model_copy(update={"gradient_checkpointing": flipped})
