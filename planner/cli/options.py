"""The options ``estimate``, ``recommend`` and ``plan`` share, under Trainer's and PEFT's names where those have one."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_args

from vramplan.planner.cli.parsing import Parser, number, one_of, pairs, size, whole_number
from vramplan.planner.device import Device
from vramplan.planner.methods import EncoderType, NonLinearity
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import Resolved, resolve
from vramplan.planner.training_setup import Attention, Loop, Offload, Optimizer, ReportTo, Sharding

_METHODS = (
    "full",
    "lora",
    "qlora",
    "adapter",
    "bottleneck",
    "prefix",
    "prompt",
    "ptuning",
    "ia3",
    "bitfit",
    "ln-tuning",
)


def least_size(text: str) -> int:
    """One size, or one for each of several GPUs: the least decides.

    >>> least_size("24GiB,22GiB") == size("22GiB")
    True
    """
    return min(size(part) for part in text.split(","))


def sharding_kind(text: str) -> str:
    """A kind of sharding; ``fsdp2`` is what FSDP's second version is also called."""
    return str(one_of(*get_args(Sharding))("fsdp" if text == "fsdp2" else text))


class Option(NamedTuple):
    """One option. ``read`` None is a switch with its ``--no-`` form; ``common`` is shown by ``--help``."""

    name: str
    read: Callable[[str], Any] | None
    help: str
    metavar: str | None = None
    aliases: tuple[str, ...] = ()
    common: bool = False


MODEL_HELP = "a catalogue id, a Hub id, a folder holding config.json, or a .yaml of TRL, Axolotl or LLaMA-Factory"

PLACE: tuple[Option, ...] = (
    Option("device", str, "a GPU by name, cpu, or auto: what is here", "NAME", common=True),
    Option("memory", least_size, "a bare size standing in for a device, such as 12GiB", "SIZE", common=True),
    Option("reserve", size, "memory kept back, for a desktop for example", "SIZE"),
    Option("host_memory", size, "host memory of each node, such as 512GiB", "SIZE"),
    Option("interconnect", str, "what joins GPUs and nodes: pcie4, nvlink4, nvlink4,infiniband-ndr ...", "NAMES"),
    Option("revision", str, "branch, tag or commit of the model on the Hub", "R"),
)
"""What the setup is for; looked up before anything is resolved."""

SETUP: tuple[Option, ...] = (
    Option(
        "method",
        one_of(*_METHODS, "layerwise", "two-stage"),
        "full, lora, qlora, adapter, ia3, prefix, prompt, ptuning, bitfit, ln-tuning, layerwise or two-stage",
        "METHOD",
        common=True,
    ),
    Option("data", str, "training data: JSON lines, JSON, CSV or Parquet, a file or a folder", "FILE", common=True),
    Option("columns", pairs, "what columns are called in the data: text=review,label=stars", "NAMES"),
    Option("skip_bad_rows", None, "leave rows out that cannot be used, and list them"),
    Option("chat_template", str, "jinja file that writes conversations", "FILE", ("--chat_template_path",)),
    Option(
        "sequence_length",
        whole_number,
        "tokens of the longest row",
        "N",
        ("--max-length", "--max_length", "--max-seq-length"),
        common=True,
    ),
    Option(
        "micro_batch",
        whole_number,
        "rows in one forward pass",
        "N",
        ("--per-device-train-batch-size", "--per_device_train_batch_size"),
        common=True,
    ),
    Option("tokens_per_step", whole_number, "tokens in one optimizer step", "N", common=True),
    Option("rank", whole_number, "LoRA rank", "N", ("--r", "--lora-r", "--lora_r"), common=True),
    Option(
        "gradient_checkpointing",
        None,
        "recompute activations instead of keeping them",
        None,
        ("--gradient_checkpointing",),
        common=True,
    ),
    Option("optimizer", one_of(*get_args(Optimizer)), ", ".join(get_args(Optimizer)), "NAME", ("--optim",), True),
    Option("alpha", whole_number, "LoRA's scale is alpha / rank", "N", ("--lora-alpha", "--lora_alpha")),
    Option(
        "target", str, "all-linear, or names such as q_proj,v_proj", "NAMES", ("--target-modules", "--target_modules")
    ),
    Option("modules_to_save", str, "LoRA: modules trained in full beside it", "NAMES", ("--modules_to_save",)),
    Option(
        "trainable_token_indices",
        str,
        "LoRA: rows of the embeddings that train, such as 128256,128257",
        "IDS",
        ("--trainable_token_indices",),
    ),
    Option(
        "init_lora_weights",
        str,
        "LoRA: how A and B begin: default, gaussian, pissa, or pissa_niter_N",
        "NAME",
        ("--init_lora_weights",),
    ),
    Option("lora_dropout", number, "dropout before the adapter", "P", ("--lora_dropout",)),
    Option("use_rslora", None, "scale by alpha / sqrt(rank)", None, ("--use_rslora",)),
    Option("use_dora", None, "learn magnitude apart from direction", None, ("--use_dora",)),
    Option("quant", one_of("nf4", "fp4", "int8"), "the quantised base of qlora: nf4, fp4 or int8", "KIND"),
    Option("double_quant", None, "quantise the quantisation constants too"),
    Option("kbit_preparation", None, "peft's prepare_model_for_kbit_training"),
    Option("dtype", one_of("bf16", "fp16", "fp32"), "the base's: bf16, fp16 or fp32", "DTYPE", ("--torch-dtype",)),
    Option("mixed_precision", one_of("no", "bf16", "fp16"), "autocast: no, bf16 or fp16", "DTYPE"),
    Option("adapter_dtype", one_of("auto", "fp32", "bf16"), "of the adapter's weights: auto, fp32 or bf16", "DTYPE"),
    Option(
        "gradient_accumulation_steps",
        whole_number,
        "micro batches in one optimizer step",
        "N",
        ("--gradient_accumulation_steps",),
    ),
    Option("packing", None, "fill every row with several examples"),
    Option("padding", one_of("none", "right"), "none, or right: some batch holds pad tokens", "SIDE"),
    Option("valid_labels", number, "share of tokens that carry loss", "F"),
    Option(
        "attention", one_of(*get_args(Attention)), ", ".join(get_args(Attention)), "NAME", ("--attn-implementation",)
    ),
    Option(
        "loss", one_of("auto", "standard", "fused", "liger"), "auto, standard, fused, or liger: priced only", "NAME"
    ),
    Option("loop", one_of(*get_args(Loop)), "executor (ours), trainer or plain: the last two are priced only", "NAME"),
    Option("alloc_conf", str, "PYTORCH_ALLOC_CONF of the run", "STR"),
    Option("task", one_of("causal-lm", "classification", "seq2seq"), "causal-lm, classification or seq2seq", "TASK"),
    Option("num_labels", whole_number, "classes, for classification", "N"),
    Option("target_length", whole_number, "decoder tokens, for seq2seq", "N"),
    Option("virtual_tokens", whole_number, "prefix, prompt, ptuning: tokens learnt in front of every row", "N"),
    Option("adapter_kind", one_of("houlsby", "pfeiffer"), "adapter: houlsby (two a block) or pfeiffer (one)", "KIND"),
    Option("bottleneck_size", whole_number, "adapter: its inner width", "N"),
    Option("non_linearity", one_of(*get_args(NonLinearity)), f"adapter: {', '.join(get_args(NonLinearity))}", "NAME"),
    Option("prompt_init_text", str, "prompt: the text it starts from; random without", "TEXT"),
    Option("encoder_type", one_of(*get_args(EncoderType)), "ptuning: MLP or LSTM", "KIND"),
    Option("encoder_hidden_size", whole_number, "ptuning: width of its encoder", "N", ("--encoder_hidden_size",)),
    Option("feedforward", str, "ia3: targets whose input is scaled", "NAMES", ("--feedforward-modules",)),
    Option("trainable_blocks", whole_number, "full and two-stage: train so many of the last blocks alone", "N"),
    Option("lower_layers", whole_number, "layerwise: how many layers learn slower", "N"),
    Option("lower_learning_rate", number, "layerwise: their learning rate", "X"),
    Option("lr_groups", str, "layerwise: modules at rates of their own, as layers.0-15=5e-6", "NAME=X,..."),
    Option("gpus", whole_number, "GPUs a node", "N"),
    Option("nodes", whole_number, "nodes", "N"),
    Option("sharding", sharding_kind, "what is split between GPUs: ddp, fsdp, zero1, zero2 or zero3", "KIND"),
    Option("offload", one_of(*get_args(Offload)), f"kept in host memory: {', '.join(get_args(Offload))}", "KIND"),
    Option("num_train_epochs", number, "passes over the data", "N", ("--num_train_epochs", "--epochs")),
    Option("second_epochs", number, "two-stage: passes of the second stage", "N"),
)
"""What decides memory, resolved by ``planner.resolve``."""

RECIPE: tuple[Option, ...] = (
    Option("learning_rate", number, "peak learning rate", "X", ("--learning_rate", "--lr"), True),
    Option("max_steps", whole_number, "stop after this many optimizer steps", "N", ("--max_steps",), True),
    Option("second_learning_rate", number, "two-stage: peak learning rate of the second stage", "X"),
    Option("second_max_steps", whole_number, "two-stage: stop the second stage after so many steps", "N"),
    Option("eval_data", str, "held-out data, as --data", "FILE", common=True),
    Option("eval_fraction", number, "share of the rows held out, copies kept together", "F", ("--eval_fraction",)),
    Option("output_dir", str, "where checkpoints and the adapter go", "DIR", ("--output_dir",), True),
    Option("lr_scheduler_type", str, "linear, cosine, constant ...", "NAME", ("--lr_scheduler_type",)),
    Option("warmup_steps", number, "steps, or a share of all steps below 1", "X", ("--warmup_steps",)),
    Option("weight_decay", number, "AdamW's decay", "X", ("--weight_decay",)),
    Option("max_grad_norm", number, "gradients are clipped to this norm", "X", ("--max_grad_norm",)),
    Option("seed", whole_number, "of everything random", "N"),
    Option("logging_steps", whole_number, "steps between losses", "N", ("--logging_steps",)),
    Option("report_to", one_of(*get_args(ReportTo)), "who is told the losses too: none, tensorboard or wandb", "NAME"),
    Option("eval_steps", whole_number, "steps between evaluations", "N", ("--eval_steps",)),
    Option("save_steps", whole_number, "steps between checkpoints", "N", ("--save_steps",)),
    Option("save_total_limit", whole_number, "checkpoints kept", "N", ("--save_total_limit",)),
    Option("completion_only", None, "loss on the completion alone, where rows have one"),
)
"""What decides the result besides memory; only ``plan`` takes these."""


def add_options(parser: Parser, *, recipe: bool = False, model_required: bool = True) -> None:
    """Add MODEL and the shared options; the rare ones are shown by ``--help-all`` only."""
    named: dict[str, Any] = {} if model_required else {"nargs": "?"}
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP, **named)
    add_each(parser, (*PLACE, *SETUP, *(RECIPE if recipe else ())))


def add_each(parser: Parser, options: Iterable[Option]) -> None:
    """Add options, the rare ones to the group that ``--help-all`` shows."""
    for option in options:
        arguments: dict[str, Any] = {"dest": option.name, "default": None, "help": option.help.replace("%", "%%")}
        if option.read is None:
            arguments["action"] = argparse.BooleanOptionalAction
        else:
            arguments |= {"type": option.read, "metavar": option.metavar}
        group = parser if option.common else parser.rare
        group.add_argument(f"--{option.name.replace('_', '-')}", **arguments)
        for alias in option.aliases:
            group.add_argument(alias, **arguments | {"help": argparse.SUPPRESS})


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The setup's and recipe's options a person gave, by name."""
    names = [option.name for option in (*SETUP, *RECIPE)]
    return {name: vars(args)[name] for name in names if vars(args).get(name) is not None}


def resolve_options(
    args: argparse.Namespace | Mapping[str, Any],
    model: ModelSpec,
    device: Device | None,
    *,
    num_examples: int | None = None,
) -> Resolved:
    """Parsed arguments as a complete setup; see ``planner.resolve.resolve``."""
    given = given_options(args) if isinstance(args, argparse.Namespace) else args
    return resolve(given, model, device, num_examples=num_examples)
