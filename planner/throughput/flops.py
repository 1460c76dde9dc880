"""The operations of one micro step, counted from the model's weights: a multiplication and an addition are two.

    a linear of (out, in)   2 x out x in a token forward; as much again for the gradient of its input, and as much again
                            for that of its weight where that trains
    attention               2 x 2 x heads x head_dim for every query and key that meet; its backward 2.5 times that in
                            a fused kernel, which makes the scores again, and twice in eager code
    checkpointing           a layer's forward once more, but for the product that ends it: torch.utils.checkpoint stops
                            as soon as the last tensor it needs is there (its ``early_stop``)
    experts                 the ones a token is sent to
    the head                over all positions; TRL's fused loss over those with a label, and once more in its backward

Norms, activations, rotary positions and state-space scans are not products of matrices: they are memory traffic
(``traffic``). Compared with torch.utils.flop_counter on real models in tests/trace/test_flops.py.
"""

from dataclasses import dataclass
from typing import NamedTuple

from vramplan.planner.memory.expert_adapters import converted
from vramplan.planner.memory.last_blocks import trained_count
from vramplan.planner.memory.static_methods import (
    excluded_modules,
    is_adaptable,
    is_head,
    matches,
    saved,
)
from vramplan.planner.method_targets import ATTENTION_OUTPUTS, MLP_OUTPUTS, ends_with
from vramplan.planner.methods import (
    Bitfit,
    Bottleneck,
    Ia3,
    Lora,
    Prefix,
    Ptuning,
    Qlora,
    prepends_rows,
    trainable_blocks,
    trains_base,
)
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import in_tower, is_classification_head
from vramplan.planner.throughput.attention_pairs import attention_flops
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

EXPERTS_PER_TOKEN = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_topk", "top_k_experts", "top_k")
"""What configs call the number of experts a token is sent to."""
_POST_NORMS = ("post_feedforward_layernorm", "post_mlp_layernorm", "post_ffw_layernorm", "output.LayerNorm")
"""Norms after a layer's last linear: their input is saved, so checkpointing makes that linear's output again."""

_DROPOUTS = ("resid_pdrop", "hidden_dropout", "hidden_dropout_prob", "resid_dropout", "residual_dropout")
"""What configs call a dropout of that output, whose mask is saved too."""


@dataclass(frozen=True)
class Work:
    """Operations of linears and of attention, and the bytes of weights the linears read."""

    linear_flops: int = 0
    attention_flops: int = 0
    weight_bytes: int = 0

    @property
    def flops(self) -> int:
        return self.linear_flops + self.attention_flops

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.linear_flops + other.linear_flops,
            self.attention_flops + other.attention_flops,
            self.weight_bytes + other.weight_bytes,
        )


@dataclass(frozen=True)
class MicroStepWork:
    """One micro batch, forward and backward."""

    forward: Work
    loss: Work
    """The head's forward and backward."""
    backward: Work
    recomputation: Work

    @property
    def model_flops(self) -> int:
        """What the method needs: without recomputation."""
        return self.forward.flops + self.loss.flops + self.backward.flops

    @property
    def flops(self) -> int:
        """What the device does."""
        return self.model_flops + self.recomputation.flops


def count_work(model: ModelSpec, workload: Workload, setup: TrainingSetup, *, element_bytes: int = 2) -> MicroStepWork:
    """The operations of one micro step.

    Args:
        element_bytes: of the weights as linears read them, quantised ones after they were made whole again.
    """
    tokens = _Tokens.of(workload, setup)
    forward = backward = again = 0
    weight_reads = [0, 0, 0]
    for weight in model.weights:
        if not _is_product(weight) or is_head(weight, model):
            continue
        position = tokens.of_weight(weight)
        each = 2 * _active_numel(weight, model) * position
        behind = _reached(weight, model, setup)
        ran = each * behind
        added = _added(weight, model, setup, position)
        forward += each * weight.count + added.flops + added.without_gradient
        backward += ran * (1 + _trains(weight, setup)) + 2 * added.flops
        backward -= _inputs_without_gradient(weight, model, setup) * (each + added.first // weight.count)
        repeated = bool(weight.layers) and setup.gradient_checkpointing
        if repeated:
            again += ran + added.flops + added.without_gradient
        if repeated and _ends_layer(weight, model):
            again -= added.flops - added.first if added.flops else ran
        read = weight.numel * element_bytes
        for place, times in enumerate((weight.count, behind, behind * repeated)):
            weight_reads[place] += read * times
    attended = attention_flops(model, workload, setup)
    recomputed = attended.behind if setup.gradient_checkpointing else 0
    virtual = _prompt_encoder_flops(model, setup)
    return MicroStepWork(
        forward=Work(forward + virtual, attended.forward, weight_reads[0]),
        loss=_head(model, workload, setup, tokens, element_bytes),
        backward=Work(backward + 2 * virtual, attended.backward, weight_reads[1]),
        recomputation=Work(again, recomputed, weight_reads[2]),
    )


@dataclass(frozen=True)
class _Tokens:
    """Positions that pass through each part of a model in one micro step."""

    rows: int
    main: int
    """Of the one stack there is, or of an encoder."""
    target: int
    """Of a decoder that has an encoder."""

    @classmethod
    def of(cls, workload: Workload, setup: TrainingSetup) -> "_Tokens":
        rows = setup.micro_batch_size
        virtual = getattr(setup.method, "num_virtual_tokens", 0) if prepends_rows(setup.method) else 0
        return cls(rows, rows * (workload.sequence_length + virtual), rows * (workload.target_length or 0))

    def of_weight(self, weight: Weight) -> int:
        name = weight.name
        if "pooler" in name or (is_classification_head(name) and "score" not in name):
            return self.rows
        if self.target and "decoder." in name and not _reads_encoder(name):
            return self.target
        return self.main


def _reads_encoder(name: str) -> bool:
    """Keys and values of attention to an encoder's output."""
    across = "encoder_attn" in name or "EncDecAttention" in name
    return across and name.rsplit(".", 2)[-2] in ("k_proj", "v_proj", "k", "v")


def _is_product(weight: Weight) -> bool:
    """Whether the forward multiplies by it: a linear, a Conv1D, or fused experts, outside of towers."""
    fused = weight.module == "experts" and len(weight.shape) == 3
    return (is_adaptable(weight) or fused) and not in_tower(weight.name)


def _active_numel(weight: Weight, model: ModelSpec) -> int:
    """Elements a token is multiplied by."""
    if weight.module != "experts":
        return weight.numel
    config = model.config.get("text_config") or model.config
    chosen = next((config[name] for name in EXPERTS_PER_TOKEN if isinstance(config.get(name), int)), weight.shape[0])
    return weight.numel // weight.shape[0] * min(int(chosen), weight.shape[0])


def _trains(weight: Weight, setup: TrainingSetup) -> bool:
    """Whether the gradient of the weight itself is made."""
    method = setup.method
    if trainable_blocks(method) is not None:
        return bool(weight.layers) or is_classification_head(weight.name)
    if trains_base(method):
        return not isinstance(method, Bitfit) or is_classification_head(weight.name)
    return is_classification_head(weight.name) or saved(weight, getattr(method, "modules_to_save", ()))


class _Added(NamedTuple):
    """Operations of what a method puts beside or after a linear, forward."""

    flops: int = 0
    """Of products both of whose gradients are made."""
    first: int = 0
    """Of the first of two such products."""
    without_gradient: int = 0


def _added(weight: Weight, model: ModelSpec, setup: TrainingSetup, position: int) -> _Added:
    method = setup.method
    if isinstance(method, Bottleneck):
        but = any(ends_with(weight.name, other) for other in excluded_modules(method))
        if but or not is_adaptable(weight) or not matches(weight, model, method.target_modules):
            return _Added()
        width = weight.shape[1] if weight.module == "conv" else weight.shape[0]
        each = 2 * width * method.bottleneck_size * weight.count * position
        return _Added(2 * each, each)
    if not isinstance(method, (Lora, Qlora)):
        return _Added()
    experts = converted(model, method)
    if weight in experts.parameters:  # the product of B and A itself is made, whatever the tokens
        return _Added(2 * method.r * weight.numel * weight.count)
    named = any(ends_with(weight.name, name) for name in experts.names)
    if named or not is_adaptable(weight) or not matches(weight, model, method.target_modules):
        return _Added()
    rows, columns = reversed(weight.shape) if weight.module == "conv" else weight.shape
    first = 2 * method.r * columns * weight.count * position
    second = 2 * method.r * rows * weight.count * position
    # DoRA: A and B of an identity matrix, detached, for the norm of each row (peft/tuners/lora/dora.py)
    norms = 2 * method.r * columns * (rows + columns) * weight.count if method.use_dora else 0
    return _Added(first + second, first, norms)


def _reached(weight: Weight, model: ModelSpec, setup: TrainingSetup) -> int:
    """How many of the tensors a weight stands for a backward goes through: those of the last blocks, where the others
    do not train, and what comes after them."""
    if trainable_blocks(setup.method) is None:
        return weight.count
    if weight.layers:
        return trained_count(weight, model, setup.method)
    return 0 if any(part in weight.name for part in ("embed", "project_in")) else 1


def _inputs_without_gradient(weight: Weight, model: ModelSpec, setup: TrainingSetup) -> int:
    """For how many of its tensors no gradient of the input is made, because nothing before it trains: the queries, keys
    and values of a frozen base's first layer, and keys and values of an encoder below the last blocks. With
    checkpointing PEFT makes the embeddings ask for gradients (enable_input_require_grads)."""
    if trainable_blocks(setup.method) is not None:  # the first norm of the first block that trains does too
        return _reached(weight, model, setup) if _reads_encoder(weight.name) else 0
    behind = isinstance(setup.method, (Lora, Qlora, Ia3, Prefix, Bottleneck))
    if not behind or setup.gradient_checkpointing or 0 not in weight.layers:
        return 0
    within = weight.name.partition("{layer}")[2].lower()
    output = any(ends_with(weight.name, name) for name in ATTENTION_OUTPUTS)
    return int(("attn" in within or "attention" in within) and not output)


def _ends_layer(weight: Weight, model: ModelSpec) -> bool:
    """Whether nothing that a backward needs comes after this linear in its layer."""
    if weight.module == "experts" or any(ends_with(weight.name, name) for name in ATTENTION_OUTPUTS):
        return False
    if not any(ends_with(weight.name, name) for name in MLP_OUTPUTS):
        return False
    if any(model.config.get(name) for name in _DROPOUTS):
        return False
    return not any(name in other.name for other in model.weights if other.layers for name in _POST_NORMS)


def _prompt_encoder_flops(model: ModelSpec, setup: TrainingSetup) -> int:
    """P-tuning's MLP over the virtual tokens of one prompt, forward."""
    method = setup.method
    if not isinstance(method, Ptuning) or method.encoder_reparameterization_type != "MLP":
        return 0
    from vramplan.planner.memory.static_methods import hidden_size

    width = method.encoder_hidden_size
    return 2 * method.num_virtual_tokens * (2 * hidden_size(model.config) * width + width * width)


def _head(model: ModelSpec, workload: Workload, setup: TrainingSetup, tokens: _Tokens, element_bytes: int) -> Work:
    """The output projection, forward and backward."""
    if workload.task == "classification":
        return Work()
    weight = _head_weight(model)
    if weight is None:
        return Work()
    length = workload.target_length or workload.sequence_length
    positions = tokens.target or tokens.main
    if setup.loss == "fused":
        positions = max(1, round(workload.valid_label_fraction * tokens.rows * (length - 1)))
    method = setup.method
    base = trains_base(method) and not isinstance(method, Bitfit) and trainable_blocks(method) is None
    trains = base or saved(weight, getattr(method, "modules_to_save", ()))
    times = 2 + trains + (setup.loss == "fused")
    return Work(2 * weight.numel * positions * times, 0, weight.numel * element_bytes * times)


def _head_weight(model: ModelSpec) -> Weight | None:
    """The weight that makes the logits: the head's own, or the embedding it is tied to."""
    own = next((weight for weight in model.weights if is_head(weight, model)), None)
    if own is not None:
        return own
    vocabulary = (model.config.get("text_config") or model.config).get("vocab_size")
    embeddings = [weight for weight in model.weights if weight.module == "embedding" and not in_tower(weight.name)]
    return next((weight for weight in embeddings if weight.shape[0] == vocabulary), None)
