"""Where PEFT puts a method when nobody names the modules, by model_type: facts, with the file they come from.

IA3 and LN-tuning: peft/utils/constants.py, TRANSFORMERS_MODELS_TO_{IA3_TARGET, IA3_FEEDFORWARD, LNTUNING_TARGET}
_MODULES_MAPPING (peft 0.21). Bottlenecks are ours and follow the linear that ends each half of a layer, found by name.
"""

from vramplan.planner.errors import UsageError
from vramplan.planner.methods import AdapterKind
from vramplan.planner.model_spec import ModelSpec, Weight

_KV_DOWN = (("k_proj", "v_proj"), ("down_proj",))
_QV_DOWN = (("q_proj", "v_proj"), ("down_proj",))
IA3: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "llama": _KV_DOWN,
    "mistral": _KV_DOWN,
    "gemma": _QV_DOWN,
    "gemma2": _QV_DOWN,
    "gemma3_text": _QV_DOWN,
    "qwen2": _QV_DOWN,
    "qwen3": _QV_DOWN,
    "mixtral": (("k_proj", "v_proj"), ("w2",)),
    "phi": (("q_proj", "v_proj"), ("fc2",)),
    "gpt2": (("c_attn",), ("mlp.c_proj",)),
    "gpt_bigcode": (("c_attn",), ("mlp.c_proj",)),
    "bloom": (("query_key_value",), ("mlp.dense_4h_to_h",)),
    "gpt_neox": (("query_key_value",), ("dense_4h_to_h",)),
    "falcon": (("query_key_value",), ("dense_4h_to_h",)),
    "opt": (("q_proj", "k_proj"), ("fc2",)),
    "gptj": (("q_proj", "v_proj"), ("fc_out",)),
    "gpt_neo": (("q_proj", "v_proj"), ("c_proj",)),
    "bart": (("q_proj", "v_proj"), ("fc2",)),
    "bert": (("key", "value"), ("output.dense",)),
    "roberta": (("key", "value"), ("output.dense",)),
    "deberta-v2": (("key_proj", "value_proj"), ("output.dense",)),
    "t5": (("k", "v"), ("wo",)),
}
"""model_type -> (targets whose output is scaled, feed-forward targets whose input is)."""

_PRE_NORM = ("input_layernorm", "post_attention_layernorm", "norm")
_GEMMA2 = (*_PRE_NORM[:2], "pre_feedforward_layernorm", "post_feedforward_layernorm", "norm")
LN_TUNING: dict[str, tuple[str, ...]] = {
    "llama": _PRE_NORM,
    "mistral": _PRE_NORM,
    "gemma": _PRE_NORM,
    "gemma2": _GEMMA2,
    "gemma3_text": _GEMMA2,
    "qwen2": ("post_attention_layernorm",),
    "qwen3": ("post_attention_layernorm",),
    "gpt2": ("ln_1", "ln_2", "ln_f"),
    "gptj": ("ln_1", "ln_f"),
    "bloom": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "falcon": ("input_layernorm", "post_attention_layernorm", "ln_f"),
    "phi": ("input_layernorm", "final_layernorm"),
    "bart": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    "t5": ("layer_norm", "final_layer_norm"),
}

ATTENTION_OUTPUTS = (
    "o_proj",
    "out_proj",
    "attn.c_proj",
    "attention.dense",
    "self_attention.dense",
    "attention.output.dense",
    "out_lin",
    "self_attn.dense",
    "SelfAttention.o",
)
MLP_OUTPUTS = (
    "down_proj",
    "fc2",
    "mlp.c_proj",
    "mlp.dense_4h_to_h",
    "fc_out",
    "DenseReluDense.wo",
    "lin2",
    "output.dense",
)
"""Names of the linear that ends a layer's attention, and its MLP, in transformers' models."""


def ia3_targets(model: ModelSpec) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """PEFT's targets for a model: (all of them, those that are feed-forward).

    Raises:
        UsageError: PEFT has none for this model_type.
    """
    known = IA3.get(model.model_type)
    if known is None:
        raise UsageError(
            f"PEFT has no default IA3 targets for {model.model_type}",
            remedy="name them: --target k_proj,v_proj,down_proj --feedforward down_proj, for example",
        )
    outputs, feedforward = known
    return (*outputs, *feedforward), feedforward


def norm_targets(model: ModelSpec) -> tuple[str, ...]:
    """PEFT's norms for LN-tuning; every norm of a model_type it has none for.

    Raises:
        UsageError: the model has no norms.
    """
    known = LN_TUNING.get(model.model_type)
    if known is None:
        known = tuple(dict.fromkeys(leaf(weight.name) for weight in model.weights if weight.module == "norm"))
    if not known:
        raise UsageError(f"{model.repo_id} has no norms to tune", remedy="use --method lora, or --method bitfit")
    return known


def leaf(name: str) -> str:
    """The last part of the name of a weight's module.

    >>> leaf("bert.encoder.layer.{layer}.output.LayerNorm.weight")
    'LayerNorm'
    """
    return name.rsplit(".", 2)[-2]


def output_projections(model: ModelSpec, kind: AdapterKind) -> tuple[str, ...]:
    """Ends of the names of the linears that bottlenecks follow.

    Raises:
        UsageError: the model has no linear of those names; in a mixture of experts, the MLP's are fused.
    """
    linears = [weight for weight in model.weights if _is_linear(weight) and weight.layers]
    mlp = _present(MLP_OUTPUTS, linears, but=ATTENTION_OUTPUTS)
    attention = _present(ATTENTION_OUTPUTS, linears, but=()) if kind == "houlsby" else ()
    missing = "MLP" if not mlp else "attention" if kind == "houlsby" and not attention else None
    if missing is not None:
        experts = any(weight.module == "experts" for weight in model.weights)
        why = ": its experts are fused parameters" if experts and missing == "MLP" else ""
        raise UsageError(
            f"{model.repo_id} has no linear that ends its {missing} for a bottleneck to follow{why}",
            remedy="name the linears with --target, or use --method lora",
        )
    return (*attention, *mlp)


def _present(names: tuple[str, ...], linears: list[Weight], but: tuple[str, ...]) -> tuple[str, ...]:
    found = []
    for name in names:
        matched = [weight for weight in linears if ends_with(weight.name, name)]
        if any(not any(ends_with(weight.name, other) for other in but) for weight in matched):
            found.append(name)
    return tuple(found)


def _is_linear(weight: Weight) -> bool:
    """A torch.nn.Linear, a class derived from it, or GPT-2's Conv1D."""
    linear = weight.module in ("linear", "linear_subclass") or (weight.module == "conv" and len(weight.shape) == 2)
    return linear and weight.name.endswith(".weight")


def ends_with(name: str, target: str) -> bool:
    """PEFT's match of a parameter's module: its dotted name is the target, or ends with a dot and it
    (peft/tuners/tuners_utils.py, check_target_module_exists)."""
    return f".{name.rpartition('.')[0]}".endswith(f".{target}")
