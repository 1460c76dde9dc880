"""What is known of each method besides its bytes: whether it merges, what it costs when the model is used, what it
risks, when it suits. Every sentence has its source; what nobody published is said to be so.
"""

from typing import Literal

from vramplan.planner.errors import UsageError
from vramplan.planner.values import Value

Risk = Literal["high", "lower", "not published"]

HU = "Hu et al., 2021, arXiv:2106.09685"
BIDERMAN = "Biderman et al., 2024, arXiv:2405.09673"
DETTMERS = "Dettmers et al., 2023, arXiv:2305.14314"
HOULSBY = "Houlsby et al., 2019, arXiv:1902.00751"
LIU_IA3 = "Liu et al., 2022, arXiv:2205.05638"
LI = "Li and Liang, 2021, arXiv:2101.00190"
LESTER = "Lester et al., 2021, arXiv:2104.08691"
LIU_PTUNING = "Liu et al., 2021, arXiv:2103.10385"
ZAKEN = "Ben Zaken et al., 2022, arXiv:2106.10199"
ZHAO = "Zhao et al., 2023, arXiv:2312.11420"
HOWARD = "Howard and Ruder, 2018, arXiv:1801.06146"
PFEIFFER = "Pfeiffer et al., 2021, arXiv:2005.00247"
PEFT_TABLE = "PEFT's MetaMathQA comparison, below"
CONSTRUCTION = "by construction"


class Fact(Value):
    """One sentence and where it is from."""

    text: str
    source: str


class MethodFacts(Value):
    """One method, in facts."""

    kind: str
    trains: str
    """What trains, in a few words."""
    mergeable: bool
    mergeable_because: str
    inference: str
    """What it costs when the model is used, in a few words."""
    inference_fact: Fact
    forgetting: Risk
    """Of what the base could do, with the trained weights in place."""
    forgetting_fact: Fact
    use_when: tuple[Fact, ...]
    avoid_when: tuple[Fact, ...]


_REMOVABLE = Fact(text="the base is untouched: take the adapter off and it is the base again", source=CONSTRUCTION)
_FULL_FORGETS = Fact(
    text="full fine-tuning lost more of the base's other abilities than LoRA, on code and on mathematics",
    source=BIDERMAN,
)
_NO_EXTRA = Fact(text="the same architecture with other weights", source=CONSTRUCTION)
_MANY_TASKS = Fact(text="several tasks on one base: a small file each, switched without reloading", source=HU)
_NO_LINEAR = "it is not a change of the base's weights but extra input, so there is nothing to add it to"

FACTS: tuple[MethodFacts, ...] = (
    MethodFacts(
        kind="full",
        trains="every weight",
        mergeable=False,
        mergeable_because="its result is a whole model already",
        inference="none",
        inference_fact=_NO_EXTRA,
        forgetting="high",
        forgetting_fact=_FULL_FORGETS,
        use_when=(
            Fact(text="much data in a domain far from the base's: it learnt more than LoRA there", source=BIDERMAN),
            Fact(text="the model is small, so that all of its states fit with room to spare", source=CONSTRUCTION),
        ),
        avoid_when=(
            Fact(text="accuracy is all that counts: LoRA r=64 was above it, 53.0 % against 50.0 %", source=PEFT_TABLE),
            Fact(text="several tasks: every one is a full copy of the model", source=HU),
            Fact(text="little memory: gradients and optimizer states for every weight", source=CONSTRUCTION),
        ),
    ),
    MethodFacts(
        kind="layerwise",
        trains="every weight, the lower layers slower",
        mergeable=False,
        mergeable_because="its result is a whole model already",
        inference="none",
        inference_fact=_NO_EXTRA,
        forgetting="high",
        forgetting_fact=Fact(
            text="every weight moves; smaller rates below were proposed against it, not measured apart",
            source=HOWARD,
        ),
        use_when=(Fact(text="classification of text with little data", source=HOWARD),),
        avoid_when=(Fact(text="little memory: it takes what full fine-tuning takes", source=CONSTRUCTION),),
    ),
    MethodFacts(
        kind="bitfit",
        trains="bias terms alone",
        mergeable=False,
        mergeable_because="its result is a whole model already: the biases are the base's own",
        inference="none",
        inference_fact=_NO_EXTRA,
        forgetting="not published",
        forgetting_fact=Fact(text="the weight matrices are untouched; nobody measured it", source=CONSTRUCTION),
        use_when=(Fact(text="BERT with small or medium data: competitive with full fine-tuning", source=ZAKEN),),
        avoid_when=(
            Fact(text="large data: there it was level with other sparse methods only", source=ZAKEN),
            Fact(text="models without biases, as Llama", source=CONSTRUCTION),
        ),
    ),
    MethodFacts(
        kind="lora",
        trains="two thin factors beside chosen linears",
        mergeable=True,
        mergeable_because="W + (alpha / r) B A is a matrix of W's shape",
        inference="none once merged",
        inference_fact=Fact(
            text="merged, not one operation more; apart, two thin products a linear, and tasks switch freely", source=HU
        ),
        forgetting="lower",
        forgetting_fact=Fact(text="kept more of the base's other abilities than full fine-tuning did", source=BIDERMAN),
        use_when=(
            Fact(text="the default where a full run does not fit: no latency, small files", source=HU),
            _MANY_TASKS,
            Fact(text="keep what the base can do", source=BIDERMAN),
        ),
        avoid_when=(Fact(text="much data far from the base's domain: at usual ranks it learnt less", source=BIDERMAN),),
    ),
    MethodFacts(
        kind="qlora",
        trains="LoRA's factors, on a base in 4 or 8 bits",
        mergeable=True,
        mergeable_because="the base is dequantised first; the sum is stored in the base's dtype",
        inference="none once merged",
        inference_fact=Fact(
            text="merged, not one operation more, in 16 bits; on a 4-bit base every product dequantises",
            source=DETTMERS,
        ),
        forgetting="lower",
        forgetting_fact=Fact(
            text="LoRA's, which forgot less than full fine-tuning; not measured on a quantised base", source=BIDERMAN
        ),
        use_when=(
            Fact(text="a base that does not fit in 16 bits: 65 B tuned on one 48 GB card", source=DETTMERS),
            Fact(text="quality like 16-bit fine-tuning on the benchmarks of the paper", source=DETTMERS),
        ),
        avoid_when=(Fact(text="memory is not short: every forward and backward dequantises", source=CONSTRUCTION),),
    ),
    MethodFacts(
        kind="adapter",
        trains="bottlenecks inside every layer",
        mergeable=False,
        mergeable_because="a bottleneck has a non-linearity, so no weight of the base can stand for it",
        inference="extra layers, one after the other",
        inference_fact=Fact(
            text="20.7 % to 30.3 % slower for one row of 128 tokens on GPT-2 medium, hardly on long batches", source=HU
        ),
        forgetting="not published",
        forgetting_fact=_REMOVABLE,
        use_when=(
            Fact(text="many tasks: within 0.4 % of full fine-tuning on GLUE, 3.6 % more parameters", source=HOULSBY),
            Fact(text="tasks whose adapters are to be composed later", source=PFEIFFER),
        ),
        avoid_when=(Fact(text="answers to single requests must be quick", source=HU),),
    ),
    MethodFacts(
        kind="ia3",
        trains="one factor a channel",
        mergeable=True,
        mergeable_because="a factor a channel scales rows or columns of the weight",
        inference="none once merged",
        inference_fact=Fact(text="the factors can be applied to the weights for good", source=LIU_IA3),
        forgetting="not published",
        forgetting_fact=_REMOVABLE,
        use_when=(
            Fact(text="a few examples a task: better than in-context learning, on T0", source=LIU_IA3),
            Fact(text="rows of many tasks in one batch", source=LIU_IA3),
        ),
        avoid_when=(Fact(text="hard reasoning: 34.5 % against 48.2 % for LoRA r=32", source=PEFT_TABLE),),
    ),
    MethodFacts(
        kind="ln-tuning",
        trains="the norms",
        mergeable=True,
        mergeable_because="the trained norms take the place of the base's",
        inference="none once merged",
        inference_fact=_NO_EXTRA,
        forgetting="not published",
        forgetting_fact=_REMOVABLE,
        use_when=(Fact(text="turning a language model multimodal with the least memory", source=ZHAO),),
        avoid_when=(Fact(text="a task the base cannot do: 0 % at learning rate 1e-4", source=PEFT_TABLE),),
    ),
    MethodFacts(
        kind="prefix",
        trains="keys and values before each layer's",
        mergeable=False,
        mergeable_because=_NO_LINEAR,
        inference="a longer key/value cache",
        inference_fact=Fact(text="every row carries the prefix's keys and values in every layer", source=LI),
        forgetting="not published",
        forgetting_fact=_REMOVABLE,
        use_when=(
            Fact(text="generation with little data: better than full fine-tuning there", source=LI),
            Fact(text="rows of many users or tasks in one batch", source=LI),
        ),
        avoid_when=(
            Fact(text="the context is needed: the prefix takes positions of it", source=HU),
            Fact(text="hard reasoning: 14.7 % against 48.2 % for LoRA r=32", source=PEFT_TABLE),
        ),
    ),
    MethodFacts(
        kind="prompt",
        trains="embeddings before the input's",
        mergeable=False,
        mergeable_because=_NO_LINEAR,
        inference="a longer input and key/value cache",
        inference_fact=Fact(text="the prompt's positions pass through every layer", source=LESTER),
        forgetting="not published",
        forgetting_fact=_REMOVABLE,
        use_when=(Fact(text="models of ten billion parameters and more: level with full fine-tuning", source=LESTER),),
        avoid_when=(
            Fact(text="small models: far behind full fine-tuning", source=LESTER),
            Fact(text="little memory: 200 virtual tokens took 2 GiB more than LoRA r=32", source=PEFT_TABLE),
        ),
    ),
    MethodFacts(
        kind="ptuning",
        trains="embeddings before the input's, made by a small network",
        mergeable=False,
        mergeable_because=_NO_LINEAR,
        inference="a longer input and key/value cache",
        inference_fact=Fact(
            text="the prompt's positions pass through every layer; the network is done with",
            source=LIU_PTUNING,
        ),
        forgetting="not published",
        forgetting_fact=_REMOVABLE,
        use_when=(Fact(text="understanding tasks with GPT-like models", source=LIU_PTUNING),),
        avoid_when=(Fact(text="hard reasoning: 37.1 % against 48.2 % for LoRA r=32", source=PEFT_TABLE),),
    ),
)


def facts_of(kind: str) -> MethodFacts:
    """The facts of one method.

    Raises:
        UsageError: there is no such method.
    """
    for facts in FACTS:
        if facts.kind == kind:
            return facts
    raise UsageError(f"no method {kind[:40]!r}", remedy=f"the methods are {', '.join(one.kind for one in FACTS)}")


class RuleOfThumb(Value):
    """A figure in use that we do not use, part by part, in bytes a parameter."""

    title: str
    weights: int
    gradients: int
    optimizer: int
    activations: int
    differs: tuple[Fact, ...]
    """Why a counted budget is another."""

    @property
    def bytes_per_param(self) -> int:
        return self.weights + self.gradients + self.optimizer + self.activations


FULL_BF16_ADAMW = RuleOfThumb(
    title="full fine-tuning in bf16 with AdamW",
    weights=2,
    gradients=2,
    optimizer=8,
    activations=2,
    differs=(
        Fact(
            text="AdamW's two states have the dtype of the weights: 4 bytes in bf16, not 8",
            source="torch/optim/adam.py",
        ),
        Fact(text="activations grow with tokens and layers, not with parameters", source=CONSTRUCTION),
    ),
)
"""The rule of fourteen bytes: 2 + 2 + 8 + 2."""
