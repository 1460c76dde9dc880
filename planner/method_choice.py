"""From the options a person gave to a Method: what each method takes, its defaults, and what a model lacks for it."""

from collections.abc import Callable, Mapping
from typing import Any

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.layerwise import check_groups, parse_groups
from vramplan.planner.lora_choice import low_rank, targets_of
from vramplan.planner.memory.last_blocks import check_blocks
from vramplan.planner.memory.static_methods import check_biases, check_norms, hidden_size
from vramplan.planner.method_targets import ia3_targets, norm_targets, output_projections
from vramplan.planner.methods import (
    Bitfit,
    Bottleneck,
    Full,
    Ia3,
    Layerwise,
    LnTuning,
    Lora,
    Method,
    Prefix,
    Prompt,
    Ptuning,
    Qlora,
)
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.picker import Picker
from vramplan.planner.targets import check_targets
from vramplan.planner.tasks import in_tower

_LOW_RANK = ("lora", "qlora")
_PROMPTS = ("prefix", "prompt", "ptuning")
_ADAPTERS = (*_LOW_RANK, "adapter", "ia3", "ln-tuning", *_PROMPTS)
_SLIDING_CACHES = ("gemma2", "gemma3", "gemma4")
"""Models that PEFT gives a cache of sliding layers for a prefix (peft/peft_model.py, get_prompt)."""
OPTION_METHODS: dict[str, tuple[str, ...]] = {
    "rank": _LOW_RANK,
    "alpha": _LOW_RANK,
    "target": (*_LOW_RANK, "adapter", "ia3", "ln-tuning"),
    "lora_dropout": _LOW_RANK,
    "use_rslora": _LOW_RANK,
    "use_dora": _LOW_RANK,
    "modules_to_save": _LOW_RANK,
    "trainable_token_indices": _LOW_RANK,
    "init_lora_weights": _LOW_RANK,
    "adapter_dtype": _ADAPTERS,
    "quant": ("qlora", *_ADAPTERS[2:]),
    "double_quant": ("qlora", *_ADAPTERS[2:]),
    "kbit_preparation": ("qlora", *_ADAPTERS[2:]),
    "virtual_tokens": _PROMPTS,
    "prompt_init_text": ("prompt",),
    "encoder_type": ("ptuning",),
    "encoder_hidden_size": ("ptuning",),
    "feedforward": ("ia3",),
    "adapter_kind": ("adapter",),
    "bottleneck_size": ("adapter",),
    "non_linearity": ("adapter",),
    "trainable_blocks": ("full", "two-stage"),
    "second_epochs": ("two-stage",),
    "second_learning_rate": ("two-stage",),
    "second_max_steps": ("two-stage",),
    "lower_layers": ("layerwise",),
    "lower_learning_rate": ("layerwise",),
    "lr_groups": ("layerwise",),
}
"""Options that only some methods have."""


def options_of_others(method: str) -> tuple[str, ...]:
    """The options a method cannot have."""
    return tuple(name for name, methods in OPTION_METHODS.items() if method not in methods)


def choose_method(pick: Picker, model: ModelSpec) -> Method:
    """The method asked for, complete.

    Raises:
        UsageError: a target matches nothing, or the model lacks what the method needs.
    """
    kind = pick.take("method", "lora", because="start with an adapter; compare with vramplan recommend")
    return _CHOOSERS[kind](pick, model)


def _lora(pick: Picker, model: ModelSpec) -> Method:
    return Lora(**low_rank(pick, model, quantised=False))


def _qlora(pick: Picker, model: ModelSpec) -> Method:
    fields = low_rank(pick, model, quantised=True)
    return Qlora(**fields, quant=pick.take("quant", "nf4"), double_quant=pick.take("double_quant", True))


def _bottleneck(pick: Picker, model: ModelSpec) -> Method:
    kind = pick.take("adapter_kind", "houlsby")
    targets = _named(pick) or output_projections(model, kind)
    pick.take("target", ",".join(targets), derived=f"where {kind} puts them")
    check_targets(targets, model, embeddings=False)
    return Bottleneck(
        adapter_kind=kind,
        bottleneck_size=pick.take("bottleneck_size", 64),
        non_linearity=pick.take("non_linearity", "gelu"),
        target_modules=targets,
        **_base(pick),
    )


def _ia3(pick: Picker, model: ModelSpec) -> Method:
    named, feedforward = _named(pick), pick.given("feedforward")
    if named:
        chosen = tuple(part.strip() for part in feedforward.split(",")) if feedforward else ()
    else:
        named, chosen = ia3_targets(model)
    pick.take("target", ",".join(named), derived="PEFT's default for this model")
    pick.take("feedforward", ",".join(chosen), derived="PEFT's default for this model")
    check_targets(named, model, embeddings=False)
    if not set(chosen) <= set(named):
        raise UsageError(
            f"--feedforward {','.join(chosen)}: a feed-forward target is one of the targets",
            remedy=f"its targets are {','.join(named)}: add it to --target",
        )
    return Ia3(target_modules=named, feedforward_modules=chosen, **_base(pick))


def _ln_tuning(pick: Picker, model: ModelSpec) -> Method:
    targets = _named(pick) or norm_targets(model)
    check_norms(model, targets)
    pick.take("target", ",".join(targets), derived="PEFT's default for this model")
    return LnTuning(target_modules=targets, **_base(pick))


def _prefix(pick: Picker, model: ModelSpec) -> Method:
    if model.model_type.startswith(_SLIDING_CACHES):
        raise UnsupportedError(
            f"--method prefix on {model.model_type}, whose cache slides, is not priced yet",
            remedy="use --method ptuning, or --method prompt",
        )
    return Prefix(num_virtual_tokens=_virtual_tokens(pick), **_base(pick))


def _prompt(pick: Picker, model: ModelSpec) -> Method:
    text = pick.take("prompt_init_text", None)
    return Prompt(num_virtual_tokens=_virtual_tokens(pick), prompt_tuning_init_text=text, **_base(pick))


def _ptuning(pick: Picker, model: ModelSpec) -> Method:
    return Ptuning(
        num_virtual_tokens=_virtual_tokens(pick),
        encoder_reparameterization_type=pick.take("encoder_type", "MLP"),
        encoder_hidden_size=pick.take(
            "encoder_hidden_size", hidden_size(model.config), derived="the model's hidden size"
        ),
        **_base(pick),
    )


def _virtual_tokens(pick: Picker) -> int:
    return int(pick.take("virtual_tokens", 20))


def _bitfit(pick: Picker, model: ModelSpec) -> Method:
    check_biases(model)
    return Bitfit()


def _full(pick: Picker, model: ModelSpec) -> Method:
    blocks = pick.given("trainable_blocks")
    if blocks is None:
        return Full()
    check_blocks(model, blocks)
    return Full(trainable_blocks=pick.take("trainable_blocks", blocks))


def _layerwise(pick: Picker, model: ModelSpec) -> Method:
    text = pick.given("lr_groups")
    if text is not None:
        groups = parse_groups(pick.take("lr_groups", text))
        method = Layerwise(lower_layers=None, lower_learning_rate=None, lr_groups=groups)
        check_groups([name for name, _ in model.tensors() if not in_tower(name)], method)
        return method
    return Layerwise(
        lower_layers=pick.take("lower_layers", 6),
        lower_learning_rate=pick.take("lower_learning_rate", 5e-5),
    )


def _base(pick: Picker) -> dict[str, Any]:
    """How the base of a method other than LoRA's is held."""
    quant = pick.given("quant")
    if quant is None:
        return {}
    return {"quant": pick.take("quant", None), "double_quant": pick.take("double_quant", True)}


def _named(pick: Picker) -> tuple[str, ...]:
    """The targets a person named, if any."""
    targets = targets_of(pick, "") if pick.given("target") else ()
    if targets == "all-linear":
        raise UsageError(
            "--target all-linear belongs to LoRA", remedy="name the modules, or leave --target out for the default"
        )
    return tuple(targets)


_CHOOSERS: Mapping[str, Callable[[Picker, ModelSpec], Method]] = {
    "full": _full,
    "layerwise": _layerwise,
    "bitfit": _bitfit,
    "ln-tuning": _ln_tuning,
    "lora": _lora,
    "qlora": _qlora,
    "adapter": _bottleneck,
    "ia3": _ia3,
    "prefix": _prefix,
    "prompt": _prompt,
    "ptuning": _ptuning,
}
