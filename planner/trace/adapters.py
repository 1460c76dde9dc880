"""Methods put on a model: the one place that turns a Method into PEFT's terms, for tracing and for running."""

from typing import Any

import torch
from torch import nn

from vramplan.planner.methods import Full, Lora, Method, Qlora
from vramplan.planner.trace.skeleton import TORCH_DTYPES

MAGNITUDE = "lora_magnitude_vector"


def peft_config(method: Method) -> Any | None:
    """The PEFT config of a method; None for full fine-tuning."""
    if isinstance(method, Full):
        return None
    from peft import LoraConfig

    assert isinstance(method, (Lora, Qlora))
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


def apply_method(model: nn.Module, method: Method, *, adapter_dtype: str) -> nn.Module:
    """Wrap a loaded (or skeleton) model with a method's adapter, in the adapter dtype asked for."""
    config = peft_config(method)
    if config is None:
        return model
    from peft import get_peft_model

    wrapped: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=adapter_dtype == "fp32")
    cast_adapter(wrapped, adapter_dtype)
    return wrapped


def cast_adapter(model: nn.Module, adapter_dtype: str) -> None:
    """Trainable adapter parameters in ``adapter_dtype``; DoRA's magnitudes in fp32, because their updates are smaller
    than bf16 can hold (trl/trainer/sft_trainer.py, the cast after get_peft_model)."""
    dtype = TORCH_DTYPES[adapter_dtype]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32 if MAGNITUDE in name else dtype)
