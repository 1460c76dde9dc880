"""LoRA on mixtures of experts whose experts transformers stores as one tensor: PEFT adapts that tensor.

Up to transformers 4 each expert's projections were linears; adapters named after them, and ``all-linear``, are made to
mean the fused tensors now (peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe). Whatever else has
one of those names, a dense layer's or a shared expert's projection, is then left without an adapter. A fused tensor of
E experts gets A of (r E, in) and B of (out, r E), and twice the rank where two projections are fused
(peft/tuners/lora/layer.py, ParamWrapper).
"""

from collections.abc import Iterator
from typing import NamedTuple

from vramplan.planner.errors import UsageError
from vramplan.planner.memory.groups import Group
from vramplan.planner.methods import Lora, Qlora
from vramplan.planner.model_spec import ModelSpec, Weight

_NAMED_W = {"gate": "gate.weight", "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj"}
_NAMED_PROJ = {
    "gate": "gate.weight",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
    "down_proj": "down_proj",
}
_CONVERTED: dict[str, dict[str, str]] = {
    **dict.fromkeys(("minimax", "minimax_m2", "mixtral"), _NAMED_W),
    **dict.fromkeys(
        (
            "afmoe",
            "cohere2_moe",
            "deepseek_v2",
            "deepseek_v3",
            "deepseek_v32",
            "dots1",
            "ernie4_5_moe",
            "exaone_moe",
            "flex_olmo",
            "glm4_moe",
            "glm4_moe_lite",
            "glm4v_moe",
            "glm_moe_dsa",
            "hunyuan_v1_moe",
            "longcat_flash",
            "olmoe",
            "qwen3_moe",
            "qwen3_next",
            "qwen3_omni_moe",
            "solar_open",
        ),
        _NAMED_PROJ,
    ),
}
"""Old name of a projection -> the parameter that holds it now, by model_type (peft 0.21, transformers 5.23)."""
FUSED = "gate_up_proj"


class Converted(NamedTuple):
    """What a LoRA of a mixture of experts adapts beside linears."""

    parameters: tuple[Weight, ...] = ()
    names: tuple[str, ...] = ()
    """Last names of modules that have no adapter for it."""


def converted(model: ModelSpec, method: Lora | Qlora) -> Converted:
    """The parameters PEFT adapts in place of projections, and the names it takes away.

    Raises:
        UsageError: one of two fused projections is a target without the other, or an option that PEFT does not have
            for a parameter.
    """
    mapping = _CONVERTED.get(model.model_type)
    if mapping is None:
        return Converted()
    targets = method.target_modules
    if targets == "all-linear":
        asked = set(mapping)
    else:
        asked = {old for old in mapping for target in targets if target == old or target.endswith(f".{old}")}
    if not asked:
        return Converted()
    _check_fused(asked, mapping)
    wanted = {mapping[old] for old in asked}
    parameters = tuple(w for w in model.weights if any(w.name.endswith(f".{name}") for name in wanted))
    if parameters:
        _check_options(model, method)
    return Converted(parameters, tuple(sorted(asked)))


def _check_fused(asked: set[str], mapping: dict[str, str]) -> None:
    both = {old for old, new in mapping.items() if new == FUSED}
    missing = both - asked
    if missing and asked & both:
        raise UsageError(
            f"--target {', '.join(sorted(asked & both))}: the experts hold it in one tensor with "
            f"{', '.join(sorted(missing))}",
            remedy=f"target {' and '.join(sorted(both))} together",
        )


def _check_options(model: ModelSpec, method: Lora | Qlora) -> None:
    refused = {
        "--use-dora": method.use_dora,
        "--lora-dropout": method.lora_dropout > 0,
        f"--init-lora-weights {method.init_lora_weights}": method.init_lora_weights.startswith("pissa"),
    }
    option = next((name for name, given in refused.items() if given), None)
    if option is not None:
        raise UsageError(
            f"{option}: PEFT has none for the fused experts of {model.model_type}",
            remedy="target the attention alone: --target q_proj,k_proj,v_proj,o_proj",
        )


def expert_groups(model: ModelSpec, method: Lora | Qlora, element_bytes: int) -> Iterator[Group]:
    """A and B of each parameter."""
    for weight in converted(model, method).parameters:
        experts = weight.shape[0] if len(weight.shape) == 3 else 1
        rows, columns = weight.shape[-2:]
        rank = method.r * experts * (2 if weight.name.endswith(f".{FUSED}") else 1)
        yield Group(rank * columns, element_bytes, weight.count, shape=(rank, columns))
        yield Group(rows * rank, element_bytes, weight.count, shape=(rows, rank))
