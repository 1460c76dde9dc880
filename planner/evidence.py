"""How well each method is known to learn, in tiers with their sources. No figure here is ours.

    0   equal to full fine-tuning in published comparisons on data of this size
    1   near it: a small measured loss, or equal on some tasks only
    2   clearly below it where it was measured on a generative task
    3   far below it there, or nobody published a comparison

The order of the lower tiers is that of PEFT's own comparison (``method_evidence``): one model, one data set, one
budget, so it says nothing certain about others.
"""

from typing import Literal, NamedTuple

from vramplan.planner.method_evidence import SOURCE, published_for
from vramplan.planner.method_facts import BIDERMAN, DETTMERS, HOULSBY, HOWARD, ZAKEN
from vramplan.planner.methods import Method
from vramplan.planner.objectives import Complexity
from vramplan.planner.workload import Task

Data = Literal["unknown", "small", "large"]
SCHULMAN = "Schulman et al., LoRA Without Regret, 2025, thinkingmachines.ai/blog/lora"
WEAK_TIER = 2
"""From here on a method is put first only where nothing better fits."""
SMALL_MODEL_PARAMS = 10**9
"""A base below this is called small: what an adapter saves there is small too."""
RANK_OF_COMPLEXITY: dict[Complexity, int] = {"simple": 8, "moderate": 16, "complex": 32}
"""A rule of thumb. LoRA's paper finds little between 4 and 64 on its tasks (arXiv:2106.09685, table 6)."""
_PREFERENCE = ("lora", "qlora", "adapter", "full", "layerwise", "ia3", "ptuning", "prefix")
_FULL_FIRST = ("full", "layerwise", "lora", "qlora", "adapter", "bitfit", "ia3", "ptuning", "prefix")


class Evidence(NamedTuple):
    """A tier, the claim behind it and where it is made."""

    tier: int
    claim: str
    source: str


def _measured(kind: str) -> str:
    """A method's accuracies beside full fine-tuning's, as PEFT published them."""
    shares = sorted({f"{run.test_accuracy:.0%}" for run in published_for(kind)})
    full = published_for("full")[0].test_accuracy
    return f"{' to '.join(shares[:: max(1, len(shares) - 1)])} of GSM8K where full fine-tuning reached {full:.0%}"


_QLORA_LOSS = "Huang et al., 2024, arXiv:2404.14047"
_BASE: dict[str, Evidence] = {
    "full": Evidence(0, "every weight learns: what the others are compared with", SOURCE),
    "layerwise": Evidence(1, "full fine-tuning with slower lower layers, shown on classification of text", HOWARD),
    "lora": Evidence(
        0, f"learns what full fine-tuning learns from small and middling data; {_measured('lora')}", SCHULMAN
    ),
    "qlora": Evidence(
        1, f"learns what 16-bit LoRA learns, though a 4-bit Llama 3 starts from a loss ({_QLORA_LOSS})", DETTMERS
    ),
    "adapter": Evidence(1, "within 0.4 % of full fine-tuning on GLUE", HOULSBY),
    "ia3": Evidence(2, _measured("ia3"), SOURCE),
    "ptuning": Evidence(2, _measured("ptuning"), SOURCE),
    "prefix": Evidence(3, _measured("prefix"), SOURCE),
    "prompt": Evidence(3, _measured("prompt"), SOURCE),
    "ln-tuning": Evidence(3, _measured("ln-tuning"), SOURCE),
    "bitfit": Evidence(3, "compared on classification with BERT alone", ZAKEN),
}
_CLASSIFICATION = {
    "layerwise": Evidence(0, "classification of text is what it was shown on", HOWARD),
    "bitfit": Evidence(1, "competitive with full fine-tuning of BERT on small and middling data", ZAKEN),
}
_LARGE = Evidence(
    1,
    "the data may hold more than the adapter: 2 bits a trained parameter, at most 1 bit a token (arXiv:2404.05405)",
    f"{SCHULMAN}; {BIDERMAN}",
)
_FORGETS = Evidence(1, "full fine-tuning forgets more of what the model knew", BIDERMAN)
_OPTIMIZERS: dict[str, Evidence] = {
    "adamw_torch": Evidence(0, "AdamW", "arXiv:1711.05101"),
    "adamw_torch_fused": Evidence(0, "AdamW", "arXiv:1711.05101"),
    "adamw_8bit": Evidence(0, "8-bit optimizer states, as good as 32-bit ones", "arXiv:2110.02861"),
    "paged_adamw_8bit": Evidence(
        0,
        "8-bit optimizer states, as good as 32-bit ones; they move to the host when the card is full",
        "arXiv:2110.02861",
    ),
    "adafactor": Evidence(1, "Adafactor was near Adam in pre-training", "arXiv:1804.04235"),
    "lion_8bit": Evidence(1, "Lion wants a smaller learning rate of its own", "arXiv:2302.06675"),
    "sgd": Evidence(2, "SGD learns language models worse than Adam does", "arXiv:2402.19449"),
}


def evidence_for(
    method: Method, *, task: Task = "causal-lm", data: Data = "unknown", keep_knowledge: bool = False
) -> Evidence:
    """The tier of a method on this kind of data, with what it rests on.

    >>> from vramplan.planner.methods import Full, Lora
    >>> evidence_for(Lora()).tier, evidence_for(Lora(), data="large").tier, evidence_for(Full(), data="large").tier
    (0, 1, 0)
    """
    found = _BASE[method.kind]
    if task == "classification":
        found = _CLASSIFICATION.get(method.kind, found)
    trains_all = method.kind in ("full", "layerwise")
    if data == "large" and not trains_all:
        return _LARGE._replace(tier=found.tier + 1)
    if keep_knowledge and trains_all:
        return _FORGETS._replace(tier=found.tier + 1)
    return found


def optimizer_evidence(optimizer: str) -> Evidence:
    """By how many tiers an optimizer is less sure than AdamW, and the claim."""
    return _OPTIMIZERS[optimizer]


def preference(kind: str, *, data: Data, small_model: bool) -> int:
    """Which of several methods of one tier comes first, 0 first.

    Start with an adapter and go full only where the data is large: an adapter is quicker to try, small to keep, and
    forgets less (Biderman et al., 2024). A small base is the exception: full fine-tuning costs little there, and is how
    such models were meant to be used (BERT, arXiv:1810.04805).
    """
    order = _FULL_FIRST if data == "large" or small_model else _PREFERENCE
    return order.index(kind) if kind in order else len(order)
