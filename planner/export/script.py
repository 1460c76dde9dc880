"""The standalone script: the plan's run on transformers, peft and trl alone, and its requirements.

It does what the executor does, in the same order, so that it takes the same steps: executor/train.py, executor/load.py,
executor/trainer.py. The plan's values stand in it as Python literals.
"""

from vramplan.planner.export.engine import Engine, Files, Source
from vramplan.planner.export.header import header
from vramplan.planner.export.limits import DATA_FIELDS, MODEL_FIELDS, SAID_FIELDS
from vramplan.planner.export.python_text import Code, call, literal
from vramplan.planner.export.ranks import RANK_FIELDS, distributed_type, rank_arguments, script_limits, several
from vramplan.planner.export.requirements import requirements
from vramplan.planner.export.script_model import after_trainer, load_model
from vramplan.planner.export.script_parts import CAST, MAIN, RANKS, ROWS, SAMPLER, STANDARD_LOSS, TRAINER
from vramplan.planner.export.script_rates import rates_code, rates_constants
from vramplan.planner.export.script_report import PHASES_CPU, PHASES_CUDA, REPORT
from vramplan.planner.export.shell import environment
from vramplan.planner.export.trainer import (
    SFT_FIELDS,
    adapter_config,
    on_cpu,
    quantised,
    sft_arguments,
)
from vramplan.planner.export.yaml_text import inert, quoted
from vramplan.planner.methods import Layerwise, trains_base
from vramplan.planner.plan import Plan

SCRIPT, REQUIREMENTS = "train.py", "requirements.txt"
METHOD_FIELDS = {
    f"setup.method.{name}": place
    for place, names in {
        "which parameters train": ("kind", "trainable_blocks"),
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
    **RANK_FIELDS,
    "setup.precision.dtype": "from_pretrained(dtype)",
    "setup.precision.adapter_dtype": "cast_adapter",
    "setup.attention": "from_pretrained(attn_implementation)",
    "setup.loss": "PlannedTrainer.compute_loss",
    "setup.kbit_preparation": "prepare_model_for_kbit_training",
    "recipe.chat_template": "tokenizer.chat_template",
}


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
        TRAINER
        + (STANDARD_LOSS if standard else "")
        + (RANKS if several(plan) else "")
        + rates_code(plan.setup.method),
        _arguments(plan),
        load_model(plan),
        after_trainer(plan),
        MAIN,
    ]
    return "\n".join(parts[:2]) + "".join(f"\n{part}" for part in parts[2:] if part)


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
        "chat-template": (recipe.chat_template, "a jinja template that writes conversations; else the tokenizer's own"),
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
        f"EVALUATES_BEFORE = {not several(plan)}  # of several processes, accelerate would not join a model it has run",
    ]
    if several(plan):
        lines += [f"WORLD_SIZE = {plan.setup.world_size}", f"DISTRIBUTED_TYPE = {quoted(distributed_type(plan))}"]
    lines += rates_constants(method)
    lines += [
        "",
        'parser = argparse.ArgumentParser(description="A planned run. The places may change, the plan may not.")',
    ]
    lines += [
        f'parser.add_argument("--{name}", default={literal(at)}, help="{what}")' for name, (at, what) in places.items()
    ]
    lines += ["places = parser.parse_args()", *_process_check(plan)]
    return "\n".join(lines) + "\n"


def _process_check(plan: Plan) -> list[str]:
    """Lines that stop a script that is not started as it was planned."""
    setup = plan.setup
    if not several(plan):
        return [
            'if os.environ.get("WORLD_SIZE", "1") != "1":',
            "    raise SystemExit(f\"planned for one process, started as one of {os.environ['WORLD_SIZE']}\")",
        ]
    return [
        'started = [int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")]',
        f"if started != [WORLD_SIZE, {setup.gpus}]:",
        f'    planned = "{setup.world_size} processes, {setup.gpus} on each of {setup.nodes} nodes"',
        '    raise SystemExit(f"planned for {planned}; started as one of {started[0]}, {started[1]} on this node")',
    ]


def _arguments(plan: Plan) -> str:
    arguments = sft_arguments(plan)
    arguments |= {
        "completion_only_loss": Code("COMPLETION_ONLY and completions"),
        "output_dir": Code("places.output_dir"),
    }
    arguments |= {"include_num_input_tokens_seen": "non_padding", "disable_tqdm": True}
    arguments |= rank_arguments(plan)
    return f'''
def arguments(completions):
    """SFTConfig: every argument the plan decides."""
    return {call("SFTConfig", arguments)}
'''


ENGINE = Engine("script", "a standalone training script and its requirements", FIELDS, script_limits, write)
