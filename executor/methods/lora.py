"""LoRA: W + (alpha / r) B A on chosen linears (Hu et al., 2021, arXiv:2106.09685), by PEFT."""

from typing import Any

from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.methods import Lora, Qlora

MAGNITUDE = "lora_magnitude_vector"
"""DoRA's magnitudes stay fp32 whatever the adapter's dtype: their updates are smaller than bf16 can hold
(trl/trainer/sft_trainer.py, the cast of adapters on quantised bases)."""


def lora_config(method: Lora | Qlora) -> Any:
    """The ``peft.LoraConfig`` of a planned method; field names are PEFT's own."""
    from peft import LoraConfig

    targets = method.target_modules
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        bias="none",
    )


def attach(model: Any, method: Lora | Qlora) -> Any:
    """The model wrapped by PEFT, its base frozen. ``set_adapter_dtype`` has the last word on the adapter's dtype.

    Raises:
        UnsupportedError: a target names no linear of this model.
    """
    from peft import get_peft_model

    from vramplan.planner.errors import UnsupportedError

    try:
        return get_peft_model(model, lora_config(method))
    except ValueError as error:
        if "arget module" not in str(error):
            raise
        raise UnsupportedError(
            f"{type(model).__name__} has no layer LoRA can target under {method.target_modules!r}",
            remedy="re-plan with --target all-linear, or with names of the model's linear layers",
        ) from error


def set_adapter_dtype(model: Any, dtype: FloatDtype) -> None:
    """Give every adapter weight the planned dtype.

    PEFT makes fp32 adapters on half-precision bases and trl makes bf16 ones on quantised bases; the plan was priced
    with one dtype, so it is set again after both have run. The values lose at most what trl's cast has already lost,
    and they are random (A) or zero (B) at that point.
    """
    import torch

    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32 if MAGNITUDE in name else torch_dtype(dtype))
