"""Methods put on a model: the one place that turns a Method into PEFT's terms, for tracing and for running."""

from typing import Any

import torch
from torch import nn

from vramplan.planner.memory.static_methods import excluded_modules
from vramplan.planner.methods import (
    Bitfit,
    Bottleneck,
    Ia3,
    LnTuning,
    Lora,
    Method,
    Prefix,
    Prompt,
    Ptuning,
    Qlora,
    trainable_blocks,
    trains_base,
)
from vramplan.planner.tasks import in_tower, is_classification_head
from vramplan.planner.trace.skeleton import TORCH_DTYPES, find_stacks
from vramplan.planner.trace.task_adapter import fit_to_task

MAGNITUDE = "lora_magnitude_vector"
CAUSAL_LM: dict[str, Any] = {"task_type": "CAUSAL_LM"}


def peft_config(method: Method, *, tokenizer: str | None = None) -> Any | None:
    """The PEFT config of a method; None for one that trains the base's own parameters.

    Args:
        tokenizer: the folder or Hub id whose tokenizer reads the text a prompt starts from.
    """
    import peft

    match method:
        case Lora() | Qlora():
            return _lora_config(method)
        case Bottleneck():
            from vramplan.planner.trace.bottleneck import BottleneckConfig

            return BottleneckConfig(
                adapter_kind=method.adapter_kind,
                bottleneck_size=method.bottleneck_size,
                non_linearity=method.non_linearity,
                target_modules=list(method.target_modules),
                exclude_modules=list(excluded_modules(method)) or None,
                **CAUSAL_LM,
            )
        case Ia3():
            feedforward = list(method.feedforward_modules)
            return peft.IA3Config(
                target_modules=list(method.target_modules), feedforward_modules=feedforward, **CAUSAL_LM
            )
        case LnTuning():
            return peft.LNTuningConfig(target_modules=list(method.target_modules), **CAUSAL_LM)
        case Prefix():
            return peft.PrefixTuningConfig(num_virtual_tokens=method.num_virtual_tokens, **CAUSAL_LM)
        case Prompt():
            return _prompt_config(method, tokenizer)
        case Ptuning():
            return peft.PromptEncoderConfig(
                num_virtual_tokens=method.num_virtual_tokens,
                encoder_reparameterization_type=method.encoder_reparameterization_type,
                encoder_hidden_size=method.encoder_hidden_size,
                **CAUSAL_LM,
            )
        case _:
            return None


def _lora_config(method: Lora | Qlora) -> Any:
    from peft import LoraConfig

    targets = method.target_modules
    return LoraConfig(
        r=method.r,
        lora_alpha=method.lora_alpha,
        lora_dropout=method.lora_dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        use_rslora=method.use_rslora,
        use_dora=method.use_dora,
        modules_to_save=list(method.modules_to_save) or None,
        trainable_token_indices=list(method.trainable_token_indices) or None,
        init_lora_weights=True if method.init_lora_weights == "default" else method.init_lora_weights,
        bias="none",
        **CAUSAL_LM,
    )


def _prompt_config(method: Prompt, tokenizer: str | None) -> Any:
    from peft import PromptTuningConfig

    start: dict[str, Any] = {}
    if method.prompt_tuning_init_text is not None and tokenizer is not None:
        start = {
            "prompt_tuning_init": "TEXT",
            "prompt_tuning_init_text": method.prompt_tuning_init_text,
            "tokenizer_name_or_path": tokenizer,
        }
    return PromptTuningConfig(num_virtual_tokens=method.num_virtual_tokens, **start, **CAUSAL_LM)


def apply_method(model: nn.Module, method: Method, *, adapter_dtype: str, tokenizer: str | None = None) -> nn.Module:
    """Wrap a loaded (or skeleton) model with a method's adapter, in the adapter dtype asked for; a method that trains
    the base's own parameters chooses them."""
    if trains_base(method):
        last = _last_blocks(model, method)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(_trains(name, parameter, method, last) and not in_tower(name))
        if last:  # where layers are recomputed transformers would ask for gradients all the way down to the embeddings
            vars(model)["enable_input_require_grads"] = _ask_for_none
        return model
    from peft import get_peft_model

    config = peft_config(method, tokenizer=tokenizer)
    fit_to_task(config, model)
    wrapped: nn.Module = get_peft_model(model, config, autocast_adapter_dtype=adapter_dtype == "fp32")
    cast_adapter(wrapped, adapter_dtype)
    return wrapped


def _trains(name: str, parameter: nn.Parameter, method: Method, last: set[int]) -> bool:
    """Whether a parameter of the base trains, towers apart."""
    if is_classification_head(name):
        return True
    if trainable_blocks(method) is not None:
        return id(parameter) in last
    return not isinstance(method, Bitfit) or name.endswith("bias")


def _ask_for_none() -> None:
    """In place of PreTrainedModel.enable_input_require_grads: the backward ends at the first block that trains."""


def _last_blocks(model: nn.Module, method: Method) -> set[int]:
    """The parameters, by id, of the last blocks of the stack that a step runs through last."""
    blocks = trainable_blocks(method)
    layers = [] if blocks is None else list(find_stacks(model)[-1])[-blocks:]
    return {id(parameter) for layer in layers for parameter in layer.parameters()}


def cast_adapter(model: nn.Module, adapter_dtype: str) -> None:
    """Trainable adapter parameters in ``adapter_dtype``; DoRA's magnitudes in fp32, because their updates are smaller
    than bf16 can hold (trl/trainer/sft_trainer.py, the cast after get_peft_model)."""
    dtype = TORCH_DTYPES[adapter_dtype]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.float32 if MAGNITUDE in name else dtype)
