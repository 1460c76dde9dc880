"""Axolotl: ``axolotl train FILE`` (axolotl/utils/schemas, axolotl 0.19: names and defaults)."""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.errors import UsageError
from vramplan.planner.imports.engine import (
    OFF,
    RECIPE_KEYS,
    SHARDING,
    Config,
    Reader,
    names,
    optimizer,
    recipe,
    take,
)

_RECIPE = {"lr_scheduler": "lr_scheduler_type", "num_epochs": "num_train_epochs"}
"""Its own names of what Trainer calls otherwise."""
_ATTENTION = {"flash_attention": "flash_attention_2", "sdp_attention": "sdpa", "eager_attention": "eager"}
"""Switches of older configs."""
_PRECISIONS = {
    "bfloat16": ("bf16", "no"),
    "float16": ("fp16", "no"),
    "float32": ("fp32", "no"),
    "fp16": ("fp16", "fp16"),
    "bf16": ("bf16", "bf16"),
}
"""Base dtype and autocast by the key that is true; those without autocast first, as bf16 is "auto" by default."""
_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
_KEYS = frozenset(
    {
        "adapter", "attn_implementation", "bnb_config_kwargs", "gradient_accumulation_steps",
        "gradient_checkpointing", "gradient_checkpointing_kwargs", "liger_fused_linear_cross_entropy", "load_in_4bit",
        "load_in_8bit", "lora_alpha", "lora_dropout", "lora_modules_to_save", "lora_r", "lora_target_linear",
        "lora_target_modules", "max_steps", "micro_batch_size", "optimizer", "peft_autocast_adapter_dtype",
        "peft_init_lora_weights", "peft_trainable_token_indices", "peft_use_dora", "peft_use_rslora", "plugins",
        "revision_of_model", "sample_packing", "sequence_len", "train_on_inputs", *RECIPE_KEYS, *_RECIPE, *_ATTENTION,
        *_PRECISIONS, *_KERNELS,
    }
)  # fmt: skip
_OWN_KERNELS = "its own kernels keep other activations"
_REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "activation_offloading": ((), "activations go to host memory"),
    "chunked_cross_entropy": ((), "another loss"),
    "cut_cross_entropy": ((), "another loss"),
    "deepspeed": ((), SHARDING),
    "fp8": ((), "8-bit floating point"),
    "fsdp": ((), SHARDING),
    "fsdp_config": ((), SHARDING),
    "liger_glu_activation": ((), _OWN_KERNELS),
    "liger_layer_norm": ((), _OWN_KERNELS),
    "liger_rms_norm": ((), _OWN_KERNELS),
    "liger_rope": ((), _OWN_KERNELS),
    "lora_target_parameters": ((), "LoRA on bare parameters"),
    "peft_layers_to_transform": ((), "LoRA on some of the layers"),
    "rl": ((), "more than one model"),
    "selective_checkpointing": ((), "some activations are kept"),
    "torch_compile": (("auto",), "compiled kernels keep other activations"),
    "unfrozen_parameters": ((), "some of the parameters train"),
    "xformers_attention": ((), "another attention"),
    **dict.fromkeys(_KERNELS, ((), _OWN_KERNELS)),
}


def _options(config: Config, given: frozenset[str]) -> dict[str, Any]:
    plugins = [str(plugin) for plugin in take(config, "plugins", [], list)]
    other = [plugin for plugin in plugins if "liger" not in plugin.lower()]
    if other:
        raise UsageError(f"plugins {other[0]!r:.60} is not priced", remedy="take it out of the file to price the rest")
    precision = next((pair for key, pair in _PRECISIONS.items() if config.get(key) not in OFF), _PRECISIONS["bf16"])
    if config.get("bf16") is False and precision == _PRECISIONS["bf16"]:
        precision = _PRECISIONS["float32"]
    switched = next((name for key, name in _ATTENTION.items() if config.get(key)), None)
    steps = take(config, "max_steps", -1, int)
    found = {
        "revision": take(config, "revision_of_model", None, str),
        "dtype": precision[0],
        "mixed_precision": precision[1],
        "attention": take(config, "attn_implementation", switched, str),
        "loop": "trainer",
        "loss": "liger" if take(config, "liger_fused_linear_cross_entropy", False, bool) else "standard",
        "sequence_length": take(config, "sequence_len", 512, int),
        "micro_batch": take(config, "micro_batch_size", 1, int),
        "gradient_accumulation_steps": take(config, "gradient_accumulation_steps", 1, int),
        "gradient_checkpointing": take(config, "gradient_checkpointing", False, bool),
        "optimizer": None if "optimizer" in given else optimizer(config, "optimizer", "adamw_torch_fused"),
        "packing": take(config, "sample_packing", False, bool),
        "completion_only": not take(config, "train_on_inputs", False, bool),
        "max_steps": steps if steps > 0 else None,
        "method": "full",
        **recipe({_RECIPE.get(key, key): value for key, value in config.items()}),
    }
    return found | (_adapter(config, given) if config.get("adapter") else {})


def _adapter(config: Config, given: frozenset[str]) -> dict[str, Any]:
    adapter = take(config, "adapter", None, str)
    if adapter not in ("lora", "qlora"):
        raise UsageError(f"adapter {adapter!r:.40} is not priced from a file", remedy="give --method")
    needed = {"lora_r": "rank", "lora_alpha": "alpha"}
    missing = [key for key, option in needed.items() if config.get(key) is None and option not in given]
    targets = "all-linear" if config.get("lora_target_linear") else None
    targets = targets or names(config.get("lora_target_modules"), "lora_target_modules")
    if targets is None and "target" not in given:
        missing.append("lora_target_linear")
    if missing:
        raise UsageError(f"the file has no {', '.join(missing)}", remedy="Axolotl wants them too; add them")
    four = take(config, "load_in_4bit", adapter == "qlora", bool)
    eight = take(config, "load_in_8bit", False, bool)
    bnb = take(config, "bnb_config_kwargs", {}, dict)
    start = config.get("peft_init_lora_weights")
    found = {
        "method": "qlora" if four or eight else "lora",
        "adapter_dtype": "fp32" if take(config, "peft_autocast_adapter_dtype", True, bool) else "bf16",
        "rank": take(config, "lora_r", None, int),
        "alpha": take(config, "lora_alpha", None, int),
        "lora_dropout": take(config, "lora_dropout", 0.0, float),
        "target": targets,
        "modules_to_save": names(config.get("lora_modules_to_save"), "lora_modules_to_save"),
        "init_lora_weights": start if isinstance(start, str) else None,
        "use_rslora": take(config, "peft_use_rslora", False, bool),
        "use_dora": take(config, "peft_use_dora", False, bool),
    }
    if config.get("peft_trainable_token_indices"):
        found["trainable_token_indices"] = ",".join(map(str, take(config, "peft_trainable_token_indices", [], list)))
    if four:  # axolotl/loaders/model.py sets nf4 and double quantisation unless told otherwise
        found["quant"] = take(bnb, "bnb_4bit_quant_type", "nf4", str)
        found["double_quant"] = take(bnb, "bnb_4bit_use_double_quant", True, bool)
    elif eight:
        found["quant"] = "int8"
    return found


def _notes(config: Config) -> Iterator[str]:
    if config.get("adapter") and any(config.get(key) is None for key in _KERNELS):
        yield "Axolotl may turn its LoRA kernels on by itself (lora_mlp_kernel ...): priced without them"
    if config.get("gradient_checkpointing") and (config.get("gradient_checkpointing_kwargs") or {}).get(
        "use_reentrant"
    ):
        yield "reentrant checkpointing is priced as non-reentrant"
    if not config.get("adapter") and config.get("attn_implementation") != "flash_attention_2":
        yield "without flash_attention_2 Axolotl trains embeddings and norms in fp32: not in this price"


READER = Reader("Axolotl", lambda config: "base_model" in config, "base_model", _KEYS, _REFUSED, _options, _notes)
