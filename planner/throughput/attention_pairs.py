"""Operations of attention: how many queries meet how many keys, and which of those a kernel skips.

A causal row of S tokens has S (S + 1) / 2 pairs. FlashAttention skips the others, and what lies outside a sliding
window; PyTorch's scaled_dot_product_attention does so where it needs no mask, which padding, a window and a prefix
bring. Eager attention makes the whole square (Dao, 2023, arXiv:2307.08691).
"""

from collections import Counter
from functools import lru_cache
from typing import Any, NamedTuple

from vramplan.planner.dims import language_config, window_of
from vramplan.planner.memory.last_blocks import last_layers
from vramplan.planner.memory.static_methods import hidden_size
from vramplan.planner.methods import prepends_rows, trainable_blocks, virtual_tokens
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import TOKEN_TYPED, in_tower
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

FUSED_BACKWARD = 2.5
"""Five products where the forward has two: FlashAttention makes the scores again (Dao et al., 2022, arXiv:2205.14135,
algorithm 4)."""
EAGER_BACKWARD = 2.0
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads")
_ENCODERS = TOKEN_TYPED | {"roberta", "xlm-roberta", "camembert", "distilbert", "modernbert", "mpnet", "xlm"}
"""Types whose tokens see those that follow."""


class Attended(NamedTuple):
    """Operations of one micro step's attention."""

    forward: int = 0
    behind: int = 0
    """Of the forward, in the layers that a backward goes through."""
    backward: int = 0


def attention_flops(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> Attended:
    """Operations of one micro step's attention, forward and backward."""
    per_pair = _flops_per_pair(language_config(model.config))
    if per_pair is None:
        return Attended()

    def flops(of: ModelSpec) -> int:
        kinds = _attending_kinds(of)
        pairs = sum(layers * _pairs(of, workload, setup, kind) for kind, layers in kinds.items())
        return per_pair * pairs * (1 if setup.packing else setup.micro_batch_size)

    forward = behind = flops(model)
    if trainable_blocks(setup.method) is not None:
        kept = {weight.name: last_layers(weight, model, setup.method) for weight in model.weights}
        weights = [weight.model_copy(update={"layers": kept[weight.name]}) for weight in model.weights]
        behind = flops(model.model_copy(update={"weights": tuple(weights)}))
    times = EAGER_BACKWARD if setup.attention == "eager" else FUSED_BACKWARD
    return Attended(forward, behind, int(behind * times))


def _flops_per_pair(config: dict[str, Any]) -> int | None:
    """Of one query and one key of every head: a product of keys, and one of values."""
    heads = next((config[name] for name in _HEADS if isinstance(config.get(name), int)), None)
    if heads is None:
        return None
    if isinstance(config.get("qk_nope_head_dim"), int):  # multi-head latent attention
        keys = config["qk_nope_head_dim"] + config.get("qk_rope_head_dim", 0)
        return int(2 * heads * (keys + config.get("v_head_dim", keys)))
    head_dim = config.get("head_dim") or config.get("d_kv") or hidden_size(config) // heads
    return int(4 * heads * head_dim)


def _attending_kinds(model: ModelSpec) -> Counter[str]:
    """How many layers have attention of each kind: ``full``, ``sliding``, ``encoder``, ``decoder`` or ``across``."""
    types = language_config(model.config).get("layer_types") or ()
    return _kinds_of(model.weights, tuple(types), bool(model.config.get("is_encoder_decoder")))


@lru_cache(maxsize=16)  # the same in every setup of a model
def _kinds_of(weights: tuple[Weight, ...], types: tuple[str, ...], has_encoder: bool) -> Counter[str]:
    seen: dict[tuple[str, int], str] = {}
    for weight in weights:
        name = weight.name
        if weight.module == "norm" or in_tower(name) or "linear_attn" in name:
            continue
        within = name.partition("{layer}")[2].lower()
        if "attn" not in within and "attention" not in within:
            continue
        across = "encoder_attn" in within or "encdecattention" in within
        for layer in weight.layers:
            kind = types[layer] if layer < len(types) else "full"
            if kind in ("linear_attention", "mamba", "conv"):
                continue
            if has_encoder:
                kind = "across" if across else "decoder" if "decoder." in name else "encoder"
            seen[f"{name.partition('.{layer}')[0]}{across}", layer] = kind
    return Counter(seen.values())


def _pairs(model: ModelSpec, workload: Workload, setup: TrainingSetup, kind: str) -> int:
    """Pairs one row's attention computes in one layer of a kind."""
    length, target = workload.sequence_length, workload.target_length or 0
    before = virtual_tokens(setup.method)
    encoded = length + before if prepends_rows(setup.method) else length
    if kind == "across":
        return target * encoded
    if kind == "encoder":
        return encoded * encoded
    if kind == "decoder":
        return target * (target if prepends_rows(setup.method) else target + before)
    queries = length + before if prepends_rows(setup.method) else length
    keys = length + before
    if setup.packing and setup.attention == "flash_attention_2":
        return setup.micro_batch_size * queries * (queries + 1) // 2
    if setup.packing:
        queries = keys = setup.micro_batch_size * length
    window = window_of(model.config) if kind != "full_attention" else None
    reaches = window is not None and window < keys
    causal = not (workload.task == "classification" and model.model_type in _ENCODERS)
    masked = setup.padding == "right" or reaches or (keys > queries) or setup.packing
    if not causal or setup.attention == "eager" or (setup.attention == "sdpa" and masked):
        return queries * keys
    outside = (keys - window) * (keys - window + 1) // 2 if window is not None and reaches else 0
    return queries * (queries + 1) // 2 + queries * (keys - queries) - outside
