"""TRL: ``trl sft --config FILE`` (trl/scripts/sft.py; defaults of SFTConfig and ModelConfig, trl 1.16)."""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.errors import UsageError
from vramplan.planner.imports.engine import (
    RECIPE_KEYS,
    SHARDING,
    Config,
    Reader,
    names,
    optimizer,
    recipe,
    reentrant,
    take,
)

_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "auto": None}
_KEYS = frozenset(
    {
        "attn_implementation", "bf16", "bnb_4bit_quant_type", "completion_only_loss", "dtype", "fp16",
        "gradient_accumulation_steps", "gradient_checkpointing", "gradient_checkpointing_kwargs", "load_in_4bit",
        "load_in_8bit", "lora_alpha", "lora_dropout", "lora_modules_to_save", "lora_r", "lora_target_modules",
        "max_length", "max_steps", "model_revision", "optim", "packing", "per_device_train_batch_size",
        "use_bnb_nested_quant", "use_dora", "use_liger_kernel", "use_peft", "use_rslora", *RECIPE_KEYS,
    }
)  # fmt: skip
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "activation_offloading": ((), "activations go to host memory"),
    "deepspeed": ((), SHARDING),
    "fsdp": ((), SHARDING),
    "loss_type": (("nll", "chunked_nll"), "another loss"),
    "lora_target_parameters": ((), "LoRA on bare parameters"),
    "padding_free": ((), "rows are joined without padding"),
    "torch_compile": ((), "compiled kernels keep other activations"),
    "use_mxfp4": ((), "another quantisation"),
}


def _notes(config: Config) -> Iterator[str]:
    if reentrant(config):
        yield "reentrant checkpointing is priced as non-reentrant"


def _knows(config: Config) -> bool:
    return "model_name_or_path" in config and not {"finetuning_type", "stage", "cutoff_len"} & set(config)


def _options(config: Config, given: frozenset[str]) -> dict[str, Any]:
    halves = {"fp16": take(config, "fp16", False, bool)}
    halves["bf16"] = take(config, "bf16", not halves["fp16"], bool)
    four, eight = (take(config, f"load_in_{bits}bit", False, bool) for bits in (4, 8))
    peft = take(config, "use_peft", False, bool)
    liger = take(config, "use_liger_kernel", False, bool)
    steps = take(config, "max_steps", -1, int)
    found = {
        "revision": take(config, "model_revision", None, str),
        "dtype": _DTYPES.get(take(config, "dtype", "float32", str)),
        "mixed_precision": next((name for name, on in halves.items() if on), "no"),
        "attention": take(config, "attn_implementation", None, str),
        "loss": "liger" if liger else "fused",
        "sequence_length": take(config, "max_length", 1024, int),
        "micro_batch": take(config, "per_device_train_batch_size", 8, int),
        "gradient_accumulation_steps": take(config, "gradient_accumulation_steps", 1, int),
        "gradient_checkpointing": take(config, "gradient_checkpointing", True, bool),
        "optimizer": None if "optimizer" in given else optimizer(config, "optim", "adamw_torch_fused"),
        "packing": take(config, "packing", False, bool),
        "completion_only": take(config, "completion_only_loss", None, bool),
        "max_steps": steps if steps > 0 else None,
        "method": ("qlora" if four or eight else "lora") if peft else "full",
        **recipe(config),
    }
    return found | (_adapter(config, given, four=four, eight=eight) if peft else {})


def _adapter(config: Config, given: frozenset[str], *, four: bool, eight: bool) -> dict[str, Any]:
    targets = names(config.get("lora_target_modules"), "lora_target_modules")
    if targets is None and "target" not in given:
        raise UsageError(
            "lora_target_modules is not set, and PEFT then chooses by the model's type",
            remedy="give --target, all-linear for example",
        )
    found = {
        # trl casts adapters on a quantised base to bf16 (trl/trainer/sft_trainer.py)
        "adapter_dtype": "bf16" if four or eight else "fp32",
        "rank": take(config, "lora_r", 16, int),
        "alpha": take(config, "lora_alpha", 32, int),
        "lora_dropout": take(config, "lora_dropout", 0.05, float),
        "target": targets,
        "modules_to_save": names(config.get("lora_modules_to_save"), "lora_modules_to_save"),
        "use_rslora": take(config, "use_rslora", False, bool),
        "use_dora": take(config, "use_dora", False, bool),
    }
    if four:
        found["quant"] = take(config, "bnb_4bit_quant_type", "nf4", str)
        found["double_quant"] = take(config, "use_bnb_nested_quant", False, bool)
    elif eight:
        found["quant"] = "int8"
    return found


READER = Reader("TRL", _knows, "model_name_or_path", _KEYS, _REFUSED, _options, _notes)
