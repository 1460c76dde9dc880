"""Axolotl: ``axolotl train config.yaml`` (axolotl/utils/schemas, axolotl 0.19)."""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.export.engine import Engine, Files, Refusal, Source, only
from vramplan.planner.export.header import header
from vramplan.planner.export.limits import (
    DATA_FIELDS,
    LORA_FIELDS,
    MODEL_FIELDS,
    SAID_FIELDS,
    common,
    held_out_needs_steps,
    lora_or_full,
    precision_is_one_of,
    rows_are_known,
    whole_answers,
)
from vramplan.planner.export.shell import data_check, shell_script
from vramplan.planner.export.trainer import on_cpu, quantised
from vramplan.planner.export.yaml_text import yaml_text
from vramplan.planner.methods import Lora, Qlora, quant_of, trains_base
from vramplan.planner.plan import Plan

VERSION = "0.19.0"
"""The version whose schema this was written for and checked with."""
_PRECISIONS = {("bf16", "bf16"): "bf16", ("fp16", "fp16"): "fp16", ("fp32", "no"): "float32"}
"""Base dtype and autocast, and the key that is true then."""

FIELDS = {
    **MODEL_FIELDS,
    **DATA_FIELDS,
    **SAID_FIELDS,
    "device.kind": "GPUs alone",
    "model.revision": "revision_of_model",
    "workload.sequence_length": "sequence_len",
    "setup.precision.dtype": "bf16, fp16, float32",
    "setup.precision.mixed_precision": "bf16, fp16, float32",
    "setup.precision.adapter_dtype": "peft_autocast_adapter_dtype",
    "setup.optimizer": "optimizer",
    "setup.micro_batch_size": "micro_batch_size",
    "setup.gradient_accumulation_steps": "gradient_accumulation_steps",
    "setup.gradient_checkpointing": "gradient_checkpointing",
    "setup.attention": "attn_implementation",
    "setup.loss": "the model's own",
    "setup.packing": "sample_packing",
    "recipe.learning_rate": "learning_rate",
    "recipe.lr_scheduler_type": "lr_scheduler",
    "recipe.warmup_steps": "warmup_steps, warmup_ratio",
    "recipe.weight_decay": "weight_decay",
    "recipe.max_grad_norm": "max_grad_norm",
    "recipe.num_train_epochs": "num_epochs",
    "recipe.max_steps": "max_steps",
    "recipe.seed": "seed",
    "recipe.logging_steps": "logging_steps",
    "recipe.eval_steps": "eval_strategy, eval_steps",
    "recipe.save_steps": "save_strategy, save_steps",
    "recipe.save_total_limit": "save_total_limit",
    "recipe.output_dir": "output_dir",
    "recipe.completion_only": "train_on_inputs",
    **LORA_FIELDS,
    "setup.method.target_modules": "lora_target_linear, lora_target_modules",
    "setup.method.use_dora": "peft_use_dora",
    "setup.method.use_rslora": "peft_use_rslora",
    "setup.method.trainable_token_indices": "peft_trainable_token_indices",
    "setup.method.init_lora_weights": "peft_init_lora_weights",
    "setup.method.kind": "adapter",
    "setup.method.quant": "load_in_4bit, load_in_8bit, bnb_config_kwargs",
    "setup.method.double_quant": "bnb_config_kwargs",
}


def refuses(source: Source) -> Iterator[Refusal]:
    """What Axolotl has no word for."""
    plan = source.plan
    setup, recipe = plan.setup, plan.recipe
    yield from common(source)
    yield from rows_are_known(source, "text", "prompt-completion", "messages")
    yield from held_out_needs_steps(source)
    yield from whole_answers(source)
    yield from lora_or_full(source)
    if on_cpu(plan):
        yield Refusal("device.kind", "cpu", "it trains on GPUs", "a GPU by name")
    yield from only(plan, "setup.loss", "standard", because="it runs the model's own loss")
    halves = ("fp32", "bf16") if not quantised(plan) else ("fp32",)
    combinations = [(*pair, half) for pair in _PRECISIONS for half in (halves if pair[0] == "bf16" else ("fp32",))]
    yield from precision_is_one_of(source, combinations, because="weights and autocast are one setting there")
    because = "it takes the preparation of norms, embeddings and head back (axolotl/loaders/model.py)"
    yield from only(plan, "setup.kbit_preparation", False, because=because)
    if trains_base(setup.method) and setup.precision.dtype != "fp32":
        because = f"with any other it trains embeddings and norms of setup.method.kind {setup.method.kind} in fp32"
        yield from only(plan, "setup.attention", "flash_attention_2", because=because)
    if setup.packing and setup.attention != "flash_attention_2":
        because = "without flash_attention_2 its packed rows see one another"
        yield Refusal("setup.packing", True, because, "--attention flash_attention_2, or --no-packing")
    if recipe.warmup_steps >= 1 and recipe.warmup_steps % 1:
        yield Refusal(
            "recipe.warmup_steps",
            recipe.warmup_steps,
            "steps are whole",
            f"--warmup-steps {round(recipe.warmup_steps)}",
        )


def write(source: Source) -> Files:
    """``config.yaml`` and a script that runs it."""
    plan = source.plan
    command = ["axolotl", "train", "config.yaml"]
    return {
        "config.yaml": yaml_text(config(source), *header(plan)),
        "run.sh": shell_script(plan, command, before=data_check(plan), comments=header(plan)),
        "requirements.txt": f"axolotl=={VERSION}\n",
    }


def config(source: Source) -> dict[str, Any]:
    """Axolotl's configuration."""
    plan = source.plan
    setup, recipe, model = plan.setup, plan.recipe, plan.model
    data, held_out = plan.data.path if plan.data else "", recipe.eval_data
    named = _PRECISIONS[setup.precision.dtype, setup.precision.mixed_precision]
    content: dict[str, Any] = {
        "base_model": model.path or model.repo_id,
        "revision_of_model": model.revision,
        "trust_remote_code": False,
        **{name: name == named for name in _PRECISIONS.values()},
        "datasets": [_dataset(data, source.row_kind)],
        "test_datasets": [_dataset(held_out, source.row_kind)] if held_out else None,
        "val_set_size": 0.0,
        "train_on_inputs": not recipe.completion_only,
        "sequence_len": plan.workload.sequence_length,
        "excess_length_strategy": "truncate",
        "sample_packing": setup.packing,
        "eval_sample_packing": False,
        "pad_to_sequence_len": False,
        "micro_batch_size": setup.micro_batch_size,
        "eval_batch_size": setup.micro_batch_size,
        "gradient_accumulation_steps": setup.gradient_accumulation_steps,
        "gradient_checkpointing": setup.gradient_checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if setup.gradient_checkpointing else None,
        "attn_implementation": setup.attention,
        "optimizer": setup.optimizer,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler": recipe.lr_scheduler_type,
        **_warmup(recipe.warmup_steps),
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "num_epochs": recipe.num_train_epochs,
        "max_steps": recipe.max_steps,
        "seed": recipe.seed,
        "logging_steps": recipe.logging_steps,
        "eval_strategy": "steps" if recipe.eval_steps else "no",
        "eval_steps": recipe.eval_steps,
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps,
        "save_total_limit": recipe.save_total_limit,
        "output_dir": recipe.output_dir,
        **_adapter(plan),
    }
    return {key: value for key, value in content.items() if value is not None}


def _warmup(steps: float) -> dict[str, Any]:
    return {"warmup_ratio": steps} if 0 < steps < 1 else {"warmup_steps": int(steps)}


def _dataset(path: str, row_kind: str | None) -> dict[str, Any]:
    content: dict[str, Any] = {"path": path, "ds_type": "json", "split": "train"}
    if row_kind == "text":
        return content | {"type": "completion", "field": "text"}
    if row_kind == "messages":
        return content | {"type": "chat_template", "field_messages": "messages"}
    fields = {"field_instruction": "prompt", "field_output": "completion"}
    return content | {"type": fields | dict.fromkeys(("format", "no_input_format"), "{instruction}")}


def _adapter(plan: Plan) -> dict[str, Any]:
    method = plan.setup.method
    if trains_base(method) or not isinstance(method, Lora | Qlora):
        return {}
    linear = method.target_modules == "all-linear"
    quant = quant_of(method)
    content: dict[str, Any] = {
        "adapter": "qlora" if quant in ("nf4", "fp4") else "lora",
        "load_in_8bit": quant == "int8",
        "load_in_4bit": quant in ("nf4", "fp4"),
        "lora_r": method.r,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
        "lora_target_linear": linear,
        "lora_target_modules": None if linear else list(method.target_modules),
        "lora_modules_to_save": list(method.modules_to_save) or None,
        "peft_use_dora": method.use_dora,
        "peft_use_rslora": method.use_rslora,
        "peft_trainable_token_indices": list(method.trainable_token_indices) or None,
        "peft_init_lora_weights": True if method.init_lora_weights == "default" else method.init_lora_weights,
        "peft_autocast_adapter_dtype": plan.setup.precision.adapter_dtype == "fp32",
        # its own kernels keep other activations than PEFT's layers do
        **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
    }
    if isinstance(method, Qlora) and quant != "int8":
        kinds = {"bnb_4bit_quant_type": quant, "bnb_4bit_use_double_quant": method.double_quant}
        content["bnb_config_kwargs"] = kinds
    return content


ENGINE = Engine("axolotl", "a config for Axolotl", FIELDS, refuses, write)
