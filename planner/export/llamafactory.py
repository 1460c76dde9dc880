"""LLaMA-Factory: ``llamafactory-cli train train.yaml`` (llamafactory/hparams, LLaMA-Factory 0.9.5)."""

import json
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
)
from vramplan.planner.export.shell import data_check, shell_script
from vramplan.planner.export.trainer import TRAINER_FIELDS, on_cpu, training_arguments
from vramplan.planner.export.yaml_text import yaml_text
from vramplan.planner.methods import Lora, Qlora, quant_of, trains_base
from vramplan.planner.plan import Plan

VERSION = "0.9.5"
"""The version whose parser this was written for and checked with."""
_FLASH_ATTN = {"sdpa": "sdpa", "flash_attention_2": "fa2", "eager": "disabled"}
_ADAPTER_PRECISIONS = {
    ("bf16", "bf16", "fp32"): "bf16",
    ("bf16", "no", "bf16"): "pure_bf16",
    ("fp16", "fp16", "fp32"): "fp16",
}
"""Base, autocast, adapter, and the key that is true then: the base is loaded in that dtype, what trains becomes fp32
unless it is pure (llamafactory/model/adapter.py, init_adapter)."""
_BASE_PRECISIONS = {
    ("fp32", "bf16", "fp32"): "bf16",
    ("bf16", "no", "fp32"): "pure_bf16",
    ("fp32", "fp16", "fp32"): "fp16",
}
"""The same where the base itself trains, and so becomes fp32."""

FIELDS = {
    **MODEL_FIELDS,
    **DATA_FIELDS,
    **SAID_FIELDS,
    **{field: name for field, name in TRAINER_FIELDS.items() if field != "device.kind"},
    "device.kind": "GPUs alone",
    "model.revision": "model_revision",
    "workload.sequence_length": "cutoff_len",
    "setup.gradient_checkpointing": "disable_gradient_checkpointing",
    "setup.precision.dtype": "bf16, fp16, pure_bf16",
    "setup.precision.mixed_precision": "bf16, fp16, pure_bf16",
    "setup.precision.adapter_dtype": "bf16, fp16, pure_bf16",
    "setup.attention": "flash_attn",
    "setup.loss": "the model's own",
    "recipe.completion_only": "mask_history, train_on_prompt",
    **LORA_FIELDS,
    "setup.method.r": "lora_rank",
    "setup.method.target_modules": "lora_target",
    "setup.method.modules_to_save": "additional_target",
    "setup.method.kind": "finetuning_type",
    "setup.method.quant": "quantization_bit, quantization_type",
    "setup.method.double_quant": "double_quantization",
}


def refuses(source: Source) -> Iterator[Refusal]:
    """What LLaMA-Factory has no word for."""
    plan = source.plan
    yield from common(source)
    yield from rows_are_known(source, "messages", "text")
    yield from held_out_needs_steps(source)
    yield from lora_or_full(source)
    if on_cpu(plan):
        yield Refusal("device.kind", "cpu", "it chooses dtypes for a GPU", "a GPU by name")
    yield from only(plan, "setup.loss", "standard", because="it runs the model's own loss")
    yield from only(plan, "setup.packing", False, because="it fills rows another way, at another price")
    yield from precision_is_one_of(source, list(_precisions(plan)), because="it couples weights, autocast and adapter")
    method = plan.setup.method
    for name in ("target_modules", "modules_to_save"):
        value = getattr(method, name, ())
        if not isinstance(value, str) and any("," in one for one in value):
            yield Refusal(f"setup.method.{name}", value, "names are joined by commas there", "names without commas")


def write(source: Source) -> Files:
    """``train.yaml``, the description of the data it wants, and a script that runs it."""
    plan = source.plan
    command = ["llamafactory-cli", "train", "train.yaml"]
    return {
        "train.yaml": yaml_text(config(source), *header(plan)),
        "dataset_info.json": json.dumps(_datasets(source), indent=2) + "\n",
        "run.sh": shell_script(plan, command, before=data_check(plan), comments=header(plan)),
        "requirements.txt": f"llamafactory=={VERSION}\n",
    }


def config(source: Source) -> dict[str, Any]:
    """LLaMA-Factory's arguments."""
    plan = source.plan
    setup, recipe, model = plan.setup, plan.recipe, plan.model
    arguments = training_arguments(plan)
    for name in ("gradient_checkpointing", "gradient_checkpointing_kwargs", "use_cpu"):
        del arguments[name]
    key = _precisions(plan)[_precision(plan)]
    conversation = source.row_kind == "messages"
    content: dict[str, Any] = {
        "stage": "sft" if conversation else "pt",
        "do_train": True,
        "model_name_or_path": model.path or model.repo_id,
        "model_revision": model.revision or "main",
        "trust_remote_code": False,
        "dataset_dir": ".",
        "dataset": "train",
        "eval_dataset": "held_out" if recipe.eval_data else None,
        "cutoff_len": plan.workload.sequence_length,
        "packing": False,
        "mask_history": recipe.completion_only if conversation else None,
        "train_on_prompt": not recipe.completion_only if conversation else None,
        "flash_attn": _FLASH_ATTN[setup.attention],
        "enable_liger_kernel": False,
        "disable_gradient_checkpointing": not setup.gradient_checkpointing,
        "use_reentrant_gc": False,
        **arguments,
        "bf16": key == "bf16",
        "fp16": key == "fp16",
        "pure_bf16": key == "pure_bf16",
        **_method(plan),
    }
    return {key: value for key, value in content.items() if value is not None}


def _datasets(source: Source) -> dict[str, Any]:
    plan = source.plan
    files = {"train": plan.data.path if plan.data else "", "held_out": plan.recipe.eval_data}
    shape: dict[str, Any] = {"columns": {"prompt": "text"}}
    if source.row_kind == "messages":
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system"}  # fmt: skip
        shape = {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    return {name: {"file_name": path} | shape for name, path in files.items() if path}


def _precisions(plan: Plan) -> dict[tuple[str, str, str], str]:
    return _BASE_PRECISIONS if trains_base(plan.setup.method) else _ADAPTER_PRECISIONS


def _precision(plan: Plan) -> tuple[str, str, str]:
    precision = plan.setup.precision
    return precision.dtype, precision.mixed_precision, precision.adapter_dtype


def _method(plan: Plan) -> dict[str, Any]:
    method = plan.setup.method
    if not isinstance(method, Lora | Qlora):
        return {"finetuning_type": "full"}
    targets = method.target_modules
    content: dict[str, Any] = {
        "finetuning_type": "lora",
        "lora_rank": method.r,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
        "lora_target": "all" if targets == "all-linear" else ",".join(targets),
        "additional_target": ",".join(method.modules_to_save) or None,
        "use_rslora": method.use_rslora,
        "use_dora": method.use_dora,
    }
    if isinstance(method, Qlora):
        quant = quant_of(method)
        content |= {"quantization_method": "bnb", "quantization_bit": 8 if quant == "int8" else 4}
        if quant != "int8":
            content |= {"quantization_type": quant, "double_quantization": method.double_quant}
    return content


ENGINE = Engine("llamafactory", "a config for LLaMA-Factory", FIELDS, refuses, write)
