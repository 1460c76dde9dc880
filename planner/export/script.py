"""The standalone script: the plan's run on transformers, peft and trl alone, and its requirements.

It does what the executor does, in the same order, so that it takes the same steps: executor/train.py, executor/load.py,
executor/trainer.py. The plan's values stand in it as Python literals.
"""

from collections.abc import Mapping
from typing import Any

from vramplan.planner.export.engine import Engine, Files, Source
from vramplan.planner.export.header import header
from vramplan.planner.export.limits import DATA_FIELDS, MODEL_FIELDS, SAID_FIELDS, common
from vramplan.planner.export.requirements import requirements
from vramplan.planner.export.script_parts import CAST, MAIN, ROWS, SAMPLER, STANDARD_LOSS, TRAINER
from vramplan.planner.export.script_rates import rates_code, rates_constants
from vramplan.planner.export.script_report import PHASES_CPU, PHASES_CUDA, REPORT
from vramplan.planner.export.shell import environment
from vramplan.planner.export.trainer import (
    SFT_FIELDS,
    TORCH_NAMES,
    adapter_config,
    compute_dtype,
    on_cpu,
    quantised,
    sft_arguments,
)
from vramplan.planner.export.yaml_text import inert, quoted
from vramplan.planner.methods import Bitfit, Layerwise, Prompt, quant_of, trains_base
from vramplan.planner.plan import Plan

SCRIPT, REQUIREMENTS = "train.py", "requirements.txt"
METHOD_FIELDS = {
    f"setup.method.{name}": place
    for place, names in {
        "which parameters train": ("kind",),
        "LoraConfig": ("r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "modules_to_save",
                       "trainable_token_indices", "init_lora_weights"),
        "the PEFT config": ("target_modules", "feedforward_modules", "num_virtual_tokens", "prompt_tuning_init_text",
                            "encoder_reparameterization_type", "encoder_hidden_size"),
        "BitsAndBytesConfig": ("quant", "double_quant"),
        "the optimizer's groups": ("lower_layers", "lower_learning_rate", "lr_groups"),
    }.items()
    for name in names
}  # fmt: skip
FIELDS = {
    **MODEL_FIELDS,
    **DATA_FIELDS,
    **SAID_FIELDS,
    **SFT_FIELDS,
    **METHOD_FIELDS,
    "setup.precision.dtype": "from_pretrained(dtype)",
    "setup.precision.adapter_dtype": "cast_adapter",
    "setup.attention": "from_pretrained(attn_implementation)",
    "setup.loss": "PlannedTrainer.compute_loss",
    "setup.kbit_preparation": "prepare_model_for_kbit_training",
}
_COMMENTS = {
    "gradient_accumulation_steps": "micro batches in one optimizer step",
    "gradient_checkpointing": "recompute activations in the backward pass instead of keeping them",
    "warmup_steps": "below 1: a share of all steps",
    "max_steps": "-1: num_train_epochs decides",
    "max_length": "longer rows are cut",
    "save_steps": "unused where save_strategy is no",
}


class Code(str):
    """An expression of ours, put into a script as it is."""


def write(source: Source) -> Files:
    """``train.py`` and ``requirements.txt``."""
    plan = source.plan
    return {SCRIPT: script(plan), REQUIREMENTS: requirements(plan)}


def script(plan: Plan) -> str:
    """The text of the training script."""
    standard = plan.setup.loss == "standard"
    parts = [
        _head(plan),
        _constants(plan),
        PHASES_CPU if on_cpu(plan) else PHASES_CUDA,
        REPORT,
        "\nphases, report = Phases(), Report()\n",
        ROWS,
        SAMPLER,
        "" if trains_base(plan.setup.method) else CAST,
        TRAINER + (STANDARD_LOSS if standard else "") + rates_code(plan.setup.method),
        _arguments(plan),
        _load_model(plan),
        _after_trainer(plan),
        MAIN,
    ]
    return "\n".join(parts[:2]) + "".join(f"\n{part}" for part in parts[2:] if part)


def literal(value: Any) -> str:
    """A value as a Python expression; strings in ASCII alone.

    >>> literal({"a": ["b", None, 0.5]}), literal(Code("torch.float32"))
    ('{"a": ["b", None, 0.5]}', 'torch.float32')
    """
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(one) for one in value) + "]"
    return repr(value)


def call(name: str, arguments: Mapping[str, Any], *, first: str = "", last: str = "") -> str:
    """A call with one argument a line, inside a function."""
    indent = "    "
    lines = [f"{name}("] + ([f"{indent}    {first},"] if first else [])
    for key, value in arguments.items():
        comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
        lines.append(f"{indent}    {key}={literal(value)},{comment}")
    lines += [f"{indent}    {last},"] if last else []
    return "\n".join([*lines, f"{indent})"])


def _head(plan: Plan) -> str:
    config = adapter_config(plan.setup.method)
    from_peft = ["get_peft_model", *([config[0]] if config else [])]
    from_peft += ["prepare_model_for_kbit_training"] if plan.setup.kbit_preparation else []
    names = ["AutoModelForCausalLM", "AutoTokenizer", "TrainerCallback", "set_seed"]
    names += ["BitsAndBytesConfig"] if quantised(plan) else []
    names += ["Trainer"] if plan.setup.loss == "standard" else []
    lines = [
        "#!/usr/bin/env python3",
        *(f"# {inert(line)}" for line in header(plan)),
        "#",
        "#     pip install -r requirements.txt",
        "#     python train.py                     the planned model, data and output folder",
        "#     python train.py --data FILE         the same file in another place; its content is checked",
        "#     vramplan explain PLAN report.json   what was expected, beside what happened",
        "",
        *(f"import {name}" for name in ("argparse", "hashlib", "io", "json", "os", "platform", "random")),
        *(["import re"] if isinstance(plan.setup.method, Layerwise) else []),
        "import time",
        "from datetime import datetime, timezone",
        "from importlib.metadata import version",
        "from pathlib import Path",
        "",
        "# Read by PyTorch, and by the libraries on it, when they are imported.",
        *(f"os.environ[{quoted(name)}] = {quoted(value)}" for name, value in environment(plan).items()),
        "",
        "import psutil",
        "import torch",
        "from datasets import Dataset",
        *([f"from peft import {', '.join(sorted(from_peft))}"] if config else []),
        f"from transformers import {', '.join(sorted(names))}",
        "from trl import SFTConfig, SFTTrainer",
    ]
    return "\n".join(lines) + "\n"


def _constants(plan: Plan) -> str:
    recipe, model = plan.recipe, plan.model
    origin = {"local_files_only": True} if model.path else {"revision": model.revision}
    assert plan.data is not None
    places = {
        "model": (model.path or model.repo_id, "the model: a folder, or a name on the Hub"),
        "data": (plan.data.path, "the training file, JSON lines"),
        "eval-data": (recipe.eval_data, "the held-out file, JSON lines"),
        "output-dir": (recipe.output_dir, "where checkpoints and the result go"),
        "report": ("report.json", "where the report goes"),
    }
    packages = ["torch", "transformers", "trl", "accelerate", "datasets"]
    packages += [] if trains_base(plan.setup.method) else ["peft"]
    packages += ["bitsandbytes"] if quantised(plan) or "8bit" in plan.setup.optimizer else []
    method = plan.setup.method
    lines = [
        f"FINGERPRINT = {quoted(plan.fingerprint)}  # of the plan: its report names it",
        f"DATA_SHA256 = {quoted(plan.data.sha256)}",
        f"SEED = {recipe.seed}",
        f"COMPLETION_ONLY = {recipe.completion_only}  # loss on the completion alone, where rows have one",
        f"ORIGIN = {literal(origin)}",
        f"PACKAGES = {literal(packages)}",
    ]
    lines += rates_constants(method)
    lines += [
        "",
        'parser = argparse.ArgumentParser(description="A planned run. The places may change, the plan may not.")',
    ]
    lines += [
        f'parser.add_argument("--{name}", default={literal(at)}, help="{what}")' for name, (at, what) in places.items()
    ]
    lines += [
        "places = parser.parse_args()",
        'if os.environ.get("WORLD_SIZE", "1") != "1":',
        "    raise SystemExit(f\"planned for one process, started as one of {os.environ['WORLD_SIZE']}\")",
    ]
    return "\n".join(lines) + "\n"


def _arguments(plan: Plan) -> str:
    arguments = sft_arguments(plan)
    arguments |= {
        "completion_only_loss": Code("COMPLETION_ONLY and completions"),
        "output_dir": Code("places.output_dir"),
    }
    arguments |= {"include_num_input_tokens_seen": "non_padding", "disable_tqdm": True}
    return f'''
def arguments(completions):
    """SFTConfig: every argument the plan decides."""
    return {call("SFTConfig", arguments)}
'''


def _load_model(plan: Plan) -> str:
    setup, device = plan.setup, Code('{"": "cpu"}' if on_cpu(plan) else '{"": 0}')
    options: dict[str, Any] = {
        "dtype": Code(f"torch.{TORCH_NAMES[setup.precision.dtype]}"),
        "attn_implementation": setup.attention,
        "device_map": device,
        "use_safetensors": True,
        "trust_remote_code": False,
    }
    if quantised(plan):
        options["quantization_config"] = Code(_quantization(plan))
    loaded = call("AutoModelForCausalLM.from_pretrained", options, first="places.model", last="**ORIGIN")
    lines = [
        "def load_model():",
        '    """The model on its device, with what trains."""',
        f"    model = {loaded}",
        "    model.config.use_cache = False",
        *_method(plan),
    ]
    return "\n".join(["", *lines, ""])


def _quantization(plan: Plan) -> str:
    quant = quant_of(plan.setup.method)
    if quant == "int8":
        return "BitsAndBytesConfig(load_in_8bit=True)"
    double = getattr(plan.setup.method, "double_quant", True)
    return (
        f"BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type={quoted(quant or '')}, "
        f"bnb_4bit_use_double_quant={double}, bnb_4bit_compute_dtype=torch.{TORCH_NAMES[compute_dtype(plan)]})"
    )


def _method(plan: Plan) -> list[str]:
    """Lines of ``load_model`` after the base is there."""
    method = plan.setup.method
    config = adapter_config(method)
    if config is None:
        trains = 'name.endswith("bias")' if isinstance(method, Bitfit) else "True"
        return [
            "    for name, parameter in model.named_parameters():",
            f"        parameter.requires_grad_({trains})",
            "    return model",
        ]
    lines = []
    if quantised(plan) and on_cpu(plan):
        lines += [
            "    for module in model.modules():  # bitsandbytes' layout for inference on a CPU has no backward pass",
            '        if getattr(module, "support_avx512bf16_for_cpu", False):',
            "            module.support_avx512bf16_for_cpu = False",
        ]
    if plan.setup.kbit_preparation:
        lines += ["    model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)"]
    name, arguments = config
    if isinstance(method, Prompt) and method.prompt_tuning_init_text is not None:
        arguments |= {"tokenizer_name_or_path": Code("places.model")}
    lines += [
        f"    config = {call(name, arguments)}",
        "    model = get_peft_model(model, config, autocast_adapter_dtype=True)",
        "    cast_adapter(model, torch.float32)",
        "    return model",
    ]
    return lines


def _after_trainer(plan: Plan) -> str:
    if trains_base(plan.setup.method):
        return '''
def after_trainer(model):
    """The base's own parameters train, in the dtype they were loaded in."""
'''
    dtype = f"torch.{TORCH_NAMES[plan.setup.precision.adapter_dtype]}"
    return f'''
def after_trainer(model):
    """PEFT makes fp32 adapters, and trl bf16 ones on a quantised base: the planned dtype has the last word."""
    cast_adapter(model, {dtype})
'''


ENGINE = Engine("script", "a standalone training script and its requirements", FIELDS, common, write)
