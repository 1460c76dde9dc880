"""trl's own command line: ``trl sft --config sft.yaml`` (trl/scripts/sft.py, trl 1.16)."""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.export.engine import Engine, Files, Refusal, Source, only
from vramplan.planner.export.header import header
from vramplan.planner.export.limits import (
    DATA_FIELDS,
    LORA_FIELDS,
    MODEL_FIELDS,
    SAID_FIELDS,
    adapter_dtype_is,
    autocast_computes,
    common,
    held_out_needs_steps,
    lora_or_full,
    rows_are_known,
    whole_answers,
)
from vramplan.planner.export.requirements import requirements
from vramplan.planner.export.shell import data_check, link, shell_script
from vramplan.planner.export.trainer import SFT_FIELDS, TORCH_NAMES, quantised, sft_arguments
from vramplan.planner.export.yaml_text import yaml_text
from vramplan.planner.methods import Lora, Qlora, quant_of
from vramplan.planner.plan import Plan

FIELDS = {
    **MODEL_FIELDS,
    **DATA_FIELDS,
    **SAID_FIELDS,
    **SFT_FIELDS,
    "model.revision": "model_revision",
    "setup.precision.dtype": "dtype",
    "setup.precision.adapter_dtype": "as trl makes them",
    "setup.attention": "attn_implementation",
    "setup.loss": "trl's fused head",
    **{field: name for field, name in LORA_FIELDS.items() if name != "bias"},
    "setup.method.kind": "use_peft, load_in_4bit, load_in_8bit",
    "setup.method.quant": "bnb_4bit_quant_type",
    "setup.method.double_quant": "use_bnb_nested_quant",
}


def refuses(source: Source) -> Iterator[Refusal]:
    """What trl's command line has no word for."""
    plan = source.plan
    yield from common(source)
    yield from rows_are_known(source, "text", "prompt-completion", "messages")
    yield from held_out_needs_steps(source)
    yield from whole_answers(source)
    yield from lora_or_full(source)
    yield from autocast_computes(source)
    yield from only(plan, "setup.loss", "fused", because="trl's trainer always runs its fused head")
    made = "bf16" if quantised(plan) else "fp32"
    yield from adapter_dtype_is(
        source, made, f"trl makes {made} adapters for setup.method.kind {plan.setup.method.kind}"
    )


def write(source: Source) -> Files:
    """``sft.yaml``, a script that runs it, and requirements."""
    plan = source.plan
    files = [("train", plan.data.path if plan.data else "")]
    files += [("test", plan.recipe.eval_data)] if plan.recipe.eval_data else []
    before = [*data_check(plan), "mkdir -p data", *(link(path, f"data/{split}.jsonl") for split, path in files)]
    return {
        "sft.yaml": yaml_text(config(source), *header(plan)),
        "run.sh": shell_script(plan, ["trl", "sft", "--config", "sft.yaml"], before=before, comments=header(plan)),
        "requirements.txt": requirements(plan),
    }


def config(source: Source) -> dict[str, Any]:
    """The arguments of ``trl sft``."""
    plan = source.plan
    setup, model = plan.setup, plan.model
    return {
        "model_name_or_path": model.path or model.repo_id,
        "model_revision": model.revision or "main",
        "trust_remote_code": False,
        "dtype": TORCH_NAMES[setup.precision.dtype],
        "attn_implementation": setup.attention,
        "dataset_name": "./data",
        **sft_arguments(plan),
        "completion_only_loss": plan.recipe.completion_only and source.row_kind == "prompt-completion",
        **_adapter(plan),
    }


def _adapter(plan: Plan) -> dict[str, Any]:
    method = plan.setup.method
    if not isinstance(method, Lora | Qlora):
        return {"use_peft": False}
    targets = [method.target_modules] if isinstance(method.target_modules, str) else list(method.target_modules)
    if len(targets) == 1 and targets != ["all-linear"]:
        targets *= 2  # trl makes a string of a list of one, and PEFT reads a string as a regular expression
    content: dict[str, Any] = {
        "use_peft": True,
        "lora_r": method.r,
        "lora_alpha": method.lora_alpha,
        "lora_dropout": method.lora_dropout,
        "lora_target_modules": targets,
        "lora_modules_to_save": list(method.modules_to_save) or None,
        "use_rslora": method.use_rslora,
        "use_dora": method.use_dora,
    }
    if isinstance(method, Qlora):
        quant = quant_of(method)
        content["load_in_8bit" if quant == "int8" else "load_in_4bit"] = True
        if quant != "int8":
            content |= {"bnb_4bit_quant_type": quant, "use_bnb_nested_quant": method.double_quant}
    return content


ENGINE = Engine("trl", "a config for trl's own command line", FIELDS, refuses, write)
