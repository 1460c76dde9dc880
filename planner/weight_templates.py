"""Weights of the Llama-shaped families from config.json alone: no torch, no checkpoint.

One decoder layer is an attention with projections q, k, v, o, a gated MLP with gate, up, down, and norms; the
families differ in biases, fused projections and where the norms sit (transformers/models/<family>/modeling_*.py).
The test suite holds these against what transformers instantiates, name by name.
"""

from dataclasses import dataclass
from typing import Any

from vramplan.planner.dims import model_dims
from vramplan.planner.dtypes import Dtype
from vramplan.planner.model_spec import ModuleKind, Weight

LLAMA_NORMS = ("input_layernorm", "post_attention_layernorm")
GEMMA_NORMS = (*LLAMA_NORMS, "pre_feedforward_layernorm", "post_feedforward_layernorm")
OLMO_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Family:
    """How one family's decoder layer differs from Llama's."""

    norms: tuple[str, ...] = LLAMA_NORMS
    qkv_bias: bool = False
    """q, k and v have a bias whatever the config says (Qwen2)."""
    attention_bias: bool = False
    """The config's ``attention_bias`` adds a bias to q, k, v and o."""
    mlp_bias: bool = False
    """The config's ``mlp_bias`` adds a bias to gate, up and down."""
    head_norms: bool = False
    """A norm of head_dim on every head of q and k."""
    whole_norms: bool = False
    """A norm over the whole of q and of k."""
    fused: bool = False
    """qkv_proj and gate_up_proj in one matrix each (Phi-3)."""


FAMILIES = {
    "llama": Family(attention_bias=True, mlp_bias=True),
    "mistral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen3": Family(attention_bias=True, head_norms=True),
    "phi3": Family(fused=True),
    "gemma": Family(attention_bias=True),
    "gemma2": Family(attention_bias=True, norms=GEMMA_NORMS),
    "gemma3_text": Family(attention_bias=True, norms=GEMMA_NORMS, head_norms=True),
    "smollm3": Family(attention_bias=True, mlp_bias=True),
    "olmo2": Family(attention_bias=True, norms=OLMO_NORMS, whole_norms=True),
    "olmo3": Family(attention_bias=True, norms=OLMO_NORMS, whole_norms=True),
    "granite": Family(attention_bias=True, mlp_bias=True),
}
"""model_type -> its decoder layer."""


def weights_from_config(config: dict[str, Any], dtype: Dtype) -> tuple[Weight, ...]:
    """Every weight of the causal-LM class of a family in ``FAMILIES``, as (out, in) matrices, tied head left out.

    Args:
        config: config.json completed with its family's defaults.
        dtype: the dtype given to every weight.
    """
    family = FAMILIES[config["model_type"]]
    dims = model_dims(config)
    hidden, vocabulary = dims["h"], dims["V"]
    layers = tuple(range(config["num_hidden_layers"]))
    weights = [Weight(name="model.embed_tokens.weight", shape=(vocabulary, hidden), dtype=dtype, module="embedding")]
    for name, shape, module in _layer(family, config, dims):
        weights.append(
            Weight(name=f"model.layers.{{layer}}.{name}", shape=shape, dtype=dtype, module=module, layers=layers)
        )
    weights.append(Weight(name="model.norm.weight", shape=(hidden,), dtype=dtype, module="norm"))
    if not config.get("tie_word_embeddings"):
        weights.append(Weight(name="lm_head.weight", shape=(vocabulary, hidden), dtype=dtype, module="linear"))
    return tuple(weights)


def _layer(
    family: Family, config: dict[str, Any], dims: dict[str, int]
) -> list[tuple[str, tuple[int, ...], ModuleKind]]:
    width, query, key = dims["d"], dims["H"] * dims["d"], dims["K"] * dims["d"]
    rows: list[tuple[str, tuple[int, ...], ModuleKind]] = []
    for name, outputs, inputs, biased in _projections(family, config, dims):
        rows.append((f"{name}.weight", (outputs, inputs), "linear"))
        if biased:
            rows.append((f"{name}.bias", (outputs,), "linear"))
    if family.head_norms or family.whole_norms:
        rows.append(("self_attn.q_norm.weight", (width if family.head_norms else query,), "norm"))
        rows.append(("self_attn.k_norm.weight", (width if family.head_norms else key,), "norm"))
    return rows + [(f"{name}.weight", (dims["h"],), "norm") for name in family.norms]


def _projections(
    family: Family, config: dict[str, Any], dims: dict[str, int]
) -> tuple[tuple[str, int, int, bool], ...]:
    """(name, out, in, has a bias) of one layer's linear modules."""
    hidden, inner, query, key = dims["h"], dims["f"], dims["H"] * dims["d"], dims["K"] * dims["d"]
    if family.fused:
        return (
            ("self_attn.o_proj", hidden, query, False),
            ("self_attn.qkv_proj", query + 2 * key, hidden, False),
            ("mlp.gate_up_proj", 2 * inner, hidden, False),
            ("mlp.down_proj", hidden, inner, False),
        )
    attention = family.attention_bias and bool(config.get("attention_bias"))
    mlp = family.mlp_bias and bool(config.get("mlp_bias"))
    return (
        ("self_attn.q_proj", query, hidden, attention or family.qkv_bias),
        ("self_attn.k_proj", key, hidden, attention or family.qkv_bias),
        ("self_attn.v_proj", key, hidden, attention or family.qkv_bias),
        ("self_attn.o_proj", hidden, query, attention),
        ("mlp.gate_proj", inner, hidden, mlp),
        ("mlp.up_proj", inner, hidden, mlp),
        ("mlp.down_proj", hidden, inner, mlp),
    )
