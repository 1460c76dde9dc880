"""What really stands in memory after loading, against the plan: to the byte, before the first step."""

from collections.abc import Iterator
from typing import Any

from vramplan.executor.static_bytes import model_bytes
from vramplan.executor.static_check import differences
from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.methods import quant_of
from vramplan.planner.plan import Plan
from vramplan.planner.training_setup import TrainingSetup


def check_loaded(plan: Plan, model: Any, device_type: str) -> tuple[str, ...]:
    """One sentence for everything that is not as planned: parameters, bytes, dtypes, quantised modules, attention.

    Args:
        model: with its method attached, as the trainer will step it.
    """
    return (
        *_trainable(plan, model),
        *(differences(plan.budget, model_bytes(model, device_type)) if whole(plan) else ()),
        *_dtypes(plan.setup, model),
        *_quantized(plan.setup, model),
        *_attention(plan.setup, model),
    )


def whole(plan: Plan) -> bool:
    """Whether a rank holds after loading what it holds in a step; where it is sharded, that is known at the first."""
    return plan.setup.sharding in ("none", "ddp")


def _trainable(plan: Plan, model: Any) -> Iterator[str]:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trainable != plan.model.trainable_params:
        yield f"{trainable:,} parameters train, {plan.model.trainable_params:,} planned"


def _dtypes(setup: TrainingSetup, model: Any) -> Iterator[str]:
    """Bytes cannot tell bf16 from fp16. Models keep some weights in fp32, which bytes do tell."""
    import torch

    allowed = {torch_dtype(setup.precision.dtype), torch_dtype(setup.precision.adapter_dtype), torch.float32}
    wrong = [
        f"{name} is {parameter.dtype}"
        for name, parameter in model.named_parameters()
        if parameter.is_floating_point() and parameter.dtype not in allowed
    ]
    if wrong:
        yield f"dtype: {wrong[0]} and {len(wrong) - 1} more, {setup.precision.dtype} planned"


def _quantized(setup: TrainingSetup, model: Any) -> Iterator[str]:
    """bitsandbytes' modules, of the planned kind and no other."""
    quant = quant_of(setup.method)
    planned = {"nf4": "Linear4bit", "fp4": "Linear4bit", "int8": "Linear8bitLt"}.get(quant or "")
    found = [module for module in model.modules() if type(module).__name__ in ("Linear4bit", "Linear8bitLt")]
    kinds = {type(module).__name__ for module in found}
    if kinds != ({planned} if planned else set()):
        yield f"quantised modules: {', '.join(sorted(kinds)) or 'none'}, {planned or 'none'} planned"
    states = [state for module in found if (state := getattr(module.weight, "quant_state", None)) is not None]
    for state in states:
        if state.quant_type != quant or state.nested != getattr(setup.method, "double_quant", None):
            nested = " with double quantisation" if state.nested else ""
            yield f"quantisation: {state.quant_type}{nested} in memory, {quant} planned"
            return


def _attention(setup: TrainingSetup, model: Any) -> Iterator[str]:
    configs = [getattr(module, "config", None) for module in model.modules()]
    used = {name for config in configs if (name := getattr(config, "_attn_implementation", None)) is not None}
    if used - {setup.attention}:
        yield f"attention: {', '.join(sorted(used))} is set, {setup.attention} planned"
