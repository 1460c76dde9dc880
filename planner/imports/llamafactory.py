"""LLaMA-Factory: ``llamafactory-cli train FILE`` (llamafactory/hparams, LLaMA-Factory 0.9.5: names and defaults)."""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.errors import UsageError
from vramplan.planner.imports.engine import RECIPE_KEYS, SHARDING, Config, Reader, names, optimizer, recipe, take

_ATTENTION = {"auto": None, "sdpa": "sdpa", "fa2": "flash_attention_2", "disabled": "eager"}
_ADAPTER_PRECISIONS = {
    "pure_bf16": ("bf16", "no", "bf16"),
    "bf16": ("bf16", "bf16", "fp32"),
    "fp16": ("fp16", "fp16", "fp32"),
    "": ("bf16", "no", "fp32"),
}
_BASE_PRECISIONS = {
    "pure_bf16": ("bf16", "no", None),
    "bf16": ("fp32", "bf16", None),
    "fp16": ("fp32", "fp16", None),
    "": ("fp32", "no", None),
}
"""Base, autocast and adapter by the key that is true: what trains becomes fp32 unless it is pure
(llamafactory/model/adapter.py, init_adapter)."""
_KEYS = frozenset(
    {
        "additional_target", "bf16", "cutoff_len", "disable_gradient_checkpointing", "double_quantization",
        "enable_liger_kernel", "finetuning_type", "flash_attn", "fp16", "gradient_accumulation_steps", "lora_alpha",
        "lora_dropout", "lora_rank", "lora_target", "max_steps", "model_revision", "optim", "packing",
        "per_device_train_batch_size", "pure_bf16", "quantization_bit", "quantization_type", "stage",
        "train_on_prompt", "use_dora", "use_reentrant_gc", "use_rslora", *RECIPE_KEYS,
    }
)  # fmt: skip
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "deepspeed": ((), SHARDING),
    "finetuning_type": (("lora", "full"), "another method"),
    "fsdp": ((), SHARDING),
    "fsdp_config": ((), SHARDING),
    "loraplus_lr_ratio": ((), "an optimizer of its own"),
    "mixture_of_depths": ((), "another model"),
    "neat_packing": ((), "packing without attention across rows"),
    "packing": ((), "it fills rows another way, at another price"),
    "pissa_init": ((), "give --init-lora-weights pissa instead"),
    "quantization_method": (("bnb",), "another quantisation"),
    "shift_attn": ((), "another attention"),
    "stage": (("sft", "pt"), "more than one model, or another loss"),
    "unsloth_gc": ((), "activations go to host memory"),
    "use_unsloth_gc": ((), "activations go to host memory"),
    "upcast_layernorm": ((), "norms in fp32"),
    "upcast_lmhead_output": ((), "logits in fp32"),
    **dict.fromkeys(("use_adam_mini", "use_apollo", "use_badam", "use_galore", "use_muon"), ((), "another optimizer")),
    "use_llama_pro": ((), "some of the layers train"),
    "use_unsloth": ((), "kernels of its own keep other activations"),
}


def _options(config: Config, given: frozenset[str]) -> dict[str, Any]:
    full = take(config, "finetuning_type", "lora", str) == "full"
    precisions = _BASE_PRECISIONS if full else _ADAPTER_PRECISIONS
    key = next((key for key in precisions if key and take(config, key, False, bool)), "")
    dtype, mixed_precision, adapter_dtype = precisions[key]
    conversation = take(config, "stage", "sft", str) == "sft"
    if not conversation and config.get("packing") is None:
        raise UsageError("stage pt packs rows, at another price", remedy="write packing: false to price it without")
    steps = take(config, "max_steps", -1, int)
    found = {
        "revision": take(config, "model_revision", None, str),
        "dtype": dtype,
        "mixed_precision": mixed_precision,
        "attention": _ATTENTION.get(take(config, "flash_attn", "auto", str)),
        "loop": "trainer",
        "loss": "liger" if take(config, "enable_liger_kernel", False, bool) else "standard",
        "sequence_length": take(config, "cutoff_len", 2048, int),
        "micro_batch": take(config, "per_device_train_batch_size", 8, int),
        "gradient_accumulation_steps": take(config, "gradient_accumulation_steps", 1, int),
        "gradient_checkpointing": not take(config, "disable_gradient_checkpointing", False, bool),
        "optimizer": None if "optimizer" in given else optimizer(config, "optim", "adamw_torch_fused"),
        "completion_only": not take(config, "train_on_prompt", False, bool) if conversation else None,
        "max_steps": steps if steps > 0 else None,
        "method": "full",
        **recipe(config),
    }
    return found if full else found | {"adapter_dtype": adapter_dtype} | _adapter(config)


def _adapter(config: Config) -> dict[str, Any]:
    bits = take(config, "quantization_bit", None, int)
    rank = take(config, "lora_rank", 8, int)
    target = take(config, "lora_target", "all", str)
    found = {
        "method": "lora" if bits is None else "qlora",
        "rank": rank,
        "alpha": take(config, "lora_alpha", None, int) or 2 * rank,
        "lora_dropout": take(config, "lora_dropout", 0.0, float),
        "target": "all-linear" if target == "all" else names(target, "lora_target"),
        "modules_to_save": names(config.get("additional_target"), "additional_target"),
        "use_rslora": take(config, "use_rslora", False, bool),
        "use_dora": take(config, "use_dora", False, bool),
    }
    if bits == 8:
        found["quant"] = "int8"
    elif bits is not None:
        found["quant"] = take(config, "quantization_type", "nf4", str)
        found["double_quant"] = take(config, "double_quantization", True, bool)
    return found


def _notes(config: Config) -> Iterator[str]:
    if not config.get("disable_gradient_checkpointing") and config.get("use_reentrant_gc", True):
        yield "reentrant checkpointing (use_reentrant_gc) is priced as non-reentrant"


READER = Reader(
    "LLaMA-Factory",
    lambda config: "model_name_or_path" in config and bool({"finetuning_type", "stage", "cutoff_len"} & set(config)),
    "model_name_or_path",
    _KEYS,
    _REFUSED,
    _options,
    _notes,
)
