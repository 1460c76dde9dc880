"""LoRA's options on a model: the targets, what trains beside them, and what PEFT or TRL has not."""

import re
from typing import Any

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.memory.recurrence import NO_LORA, NO_LORA_BECAUSE, NO_LORA_TYPES
from vramplan.planner.memory.static_methods import input_embeddings, is_adaptable, leaf, trained_copies
from vramplan.planner.method_targets import ends_with
from vramplan.planner.methods import Targets
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.picker import Picker
from vramplan.planner.targets import HEAD, check_targets
from vramplan.planner.tasks import in_tower

_OWN_FORWARD = {
    "router": "PEFT wraps a router as a linear, and breaks on the routing it returns beside its logits",
    "o_a_proj": "PEFT wraps it as a linear, and breaks on the groups it multiplies one by one",
}
"""nn.Linear's subclasses whose forward is no linear's (transformers' Llama4Router, PhimoeTopKRouter,
DeepseekV4GroupedLinear; peft/tuners/lora/layer.py, Linear.forward)."""
_BEGINNINGS = re.compile(r"default|gaussian|pissa(_niter_[1-9]\d*)?")


def low_rank(pick: Picker, model: ModelSpec, *, quantised: bool) -> dict[str, Any]:
    """The fields LoRA and QLoRA share.

    Raises:
        UsageError: a name, id or beginning that does not suit the model.
        UnsupportedError: PEFT has none on a quantised base.
    """
    targets = _low_rank_targets(pick, model)
    check_targets(targets, model)
    saved = _modules_to_save(pick, model)
    return {
        "r": pick.take("rank", 16),
        "lora_alpha": pick.take("alpha", 32),
        "lora_dropout": pick.take("lora_dropout", 0.0),
        "target_modules": targets,
        "use_rslora": pick.take("use_rslora", False),
        "use_dora": pick.take("use_dora", False),
        "modules_to_save": saved,
        "trainable_token_indices": _token_indices(pick, model, targets, saved),
        "init_lora_weights": _beginning(pick, quantised=quantised),
    }


def targets_of(pick: Picker, fallback: str) -> Targets:
    """The targets given, else ``fallback``; an empty one is not recorded."""
    targets = pick.given("target") if fallback == "" else pick.take("target", fallback)
    return "all-linear" if targets == "all-linear" else _names(targets)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _low_rank_targets(pick: Picker, model: ModelSpec) -> Targets:
    """All linears, or by name those that a step with an adapter on them survives.

    Raises:
        UsageError: a module that cannot wear one.
    """
    never = _without_adapters(model)
    if not never:
        return targets_of(pick, "all-linear")
    possible = sorted(_linears(model) - {HEAD, *never})
    asked = pick.given("target")
    refused = next((name for name in _names(asked or "") if name in ("all-linear", *never)), None)
    if refused is not None:
        why = never.get(refused) or "; ".join(dict.fromkeys(never.values()))
        raise UsageError(
            f"--target {refused} of a {model.model_type} model: {why}", remedy=f"--target {','.join(possible)}"
        )
    if asked is None:
        pick.take("target", ",".join(possible), derived=f"the linears of a {model.model_type} model that take LoRA")
        return tuple(possible)
    return targets_of(pick, "all-linear")


def _without_adapters(model: ModelSpec) -> dict[str, str]:
    """Last names of modules LoRA cannot be on -> why."""
    never = dict.fromkeys(NO_LORA, NO_LORA_BECAUSE) if model.model_type in NO_LORA_TYPES else {}
    found = {leaf(weight.name) for weight in model.weights if weight.module == "linear_subclass"}
    return never | {name: why for name, why in _OWN_FORWARD.items() if name in found}


def _linears(model: ModelSpec) -> set[str]:
    return {leaf(weight.name) for weight in model.weights if is_adaptable(weight) and not in_tower(weight.name)}


def _modules_to_save(pick: Picker, model: ModelSpec) -> tuple[str, ...]:
    """Modules a person wants trained in full; of tied embeddings one alone parts from the other.

    Raises:
        UsageError: a name matches no module.
    """
    text = pick.take("modules_to_save", None)
    names = _names(text) if text else ()
    for name in names:
        if not name or not any(trained_copies(model, (name,))):
            raise UsageError(
                f"--modules-to-save {name} matches no module of {model.repo_id}",
                remedy="name modules such as embed_tokens or lm_head",
            )
    return names


def _token_indices(pick: Picker, model: ModelSpec, targets: Targets, saved: tuple[str, ...]) -> tuple[int, ...]:
    """Ids of tokens whose embeddings train.

    Raises:
        UsageError: no ids, ids the vocabulary does not have, embeddings that train otherwise already, or a tied head
            under TRL's fused loss, which asks PEFT's wrapper of it for a bias (trl/trainer/utils.py).
    """
    text = pick.take("trainable_token_indices", None)
    if not text:
        return ()
    table = input_embeddings(model)
    if table is None:
        raise UsageError(
            f"--trainable-token-indices: {model.repo_id} has no table of its vocabulary", remedy="leave it out"
        )
    words = _names(text)
    ids = tuple(dict.fromkeys(int(word) for word in words if word.isdecimal() and int(word) < table.shape[0]))
    if len(ids) < len(words):
        raise UsageError(
            f"--trainable-token-indices {text}: not all are different ids below {table.shape[0]}",
            remedy="give ids of the vocabulary, comma-separated: 128000,128001",
        )
    named = targets != "all-linear" and any(ends_with(table.name, target) for target in targets)
    if named or any(ends_with(table.name, name) for name in saved):
        module = table.name.rpartition(".")[0].rpartition(".")[2]
        raise UsageError(
            f"--trainable-token-indices: {module} is adapted or trained in full already",
            remedy=f"leave {module} out of --target and --modules-to-save",
        )
    if model.config.get("tie_word_embeddings") and pick.given("loss") != "standard":
        raise UsageError(
            "--trainable-token-indices on tied embeddings: trl's fused loss cannot read the head PEFT makes of them",
            remedy="use --loss standard",
        )
    return ids


def _beginning(pick: Picker, *, quantised: bool) -> str:
    """How A and B begin.

    Raises:
        UsageError: an unknown name.
        UnsupportedError: PiSSA of a quantised base (peft/tuners/lora/layer.py, pissa_init).
    """
    name = str(pick.take("init_lora_weights", "default"))
    if not _BEGINNINGS.fullmatch(name):
        raise UsageError(
            f"--init-lora-weights {name} is not known", remedy="use default, gaussian, pissa or pissa_niter_16"
        )
    if quantised and name.startswith("pissa"):
        raise UnsupportedError(
            f"--init-lora-weights {name}: PEFT takes the principal part of unquantised weights alone",
            remedy="use --method lora, or --init-lora-weights default",
        )
    return name
