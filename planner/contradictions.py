"""Options that cannot be meant together. Each is refused in one line, with the one thing to change."""

import math
from collections.abc import Mapping
from typing import Any

from vramplan.planner.errors import UsageError
from vramplan.planner.method_choice import OPTION_METHODS

_AT_LEAST_ONE = (
    "rank",
    "alpha",
    "sequence_length",
    "micro_batch",
    "tokens_per_step",
    "gradient_accumulation_steps",
    "target_length",
    "num_labels",
    "gpus",
    "nodes",
    "virtual_tokens",
    "encoder_hidden_size",
    "bottleneck_size",
    "trainable_blocks",
    "lower_layers",
    "max_steps",
    "second_max_steps",
    "logging_steps",
    "eval_steps",
    "save_steps",
    "save_total_limit",
)
_RANGES = {
    "lora_dropout": (0.0, 1.0, "from 0 up to, not including, 1"),
    "valid_labels": (0.0, 1.0, "above 0 and at most 1"),
    "eval_fraction": (0.0, 1.0, "from 0 up to, not including, 1"),
}


def flag_of(name: str) -> str:
    """The command-line flag of an option.

    >>> flag_of("sequence_length")
    '--sequence-length'
    """
    return f"--{name.replace('_', '-')}"


def check_given(given: Mapping[str, Any]) -> None:
    """Check the options a person gave, before anything is derived from them.

    Raises:
        UsageError: one value makes no sense, or two of them contradict each other.
    """
    check_numbers(given)
    _check_method(given)
    check_virtual_tokens(given)
    _check_quant(given)
    _check_loop(given)
    several = max(given.get("gpus", 1), given.get("nodes", 1)) > 1
    sharding = given.get("sharding", "fsdp" if several else "none")
    if given.get("offload", "none") != "none" and sharding in ("none", "ddp"):
        raise UsageError(
            "--offload exists only with FSDP2 or ZeRO", remedy="leave --offload out, or choose --sharding fsdp or zero3"
        )
    if given.get("packing") and given.get("padding", "none") != "none":
        raise UsageError(
            "--packing fills every row, so there is nothing to pad", remedy="leave out --packing or --padding right"
        )
    if given.get("eval_data") and given.get("eval_fraction"):
        raise UsageError("--eval-data and --eval-fraction both say what is held out", remedy="give one of the two")
    for name in ("lower_layers", "lower_learning_rate"):
        if given.get("lr_groups") is not None and given.get(name) is not None:
            raise UsageError(
                f"--lr-groups and {flag_of(name)} both say what learns at another rate",
                remedy=f"leave {flag_of(name)} out, and name the lower layers as a group: layers.0-5=5e-5",
            )
    if given.get("tokens_per_step") is not None and given.get("gradient_accumulation_steps") is not None:
        raise UsageError(
            "--tokens-per-step and --gradient-accumulation-steps both set the size of a step",
            remedy="give one of the two",
        )


def check_numbers(given: Mapping[str, Any]) -> None:
    """Check that each number can be one.

    Raises:
        UsageError: it cannot.
    """
    for name in _AT_LEAST_ONE:
        value = given.get(name)
        if value is not None and value < 1:
            raise UsageError(f"{flag_of(name)} {value} is not possible", remedy=f"{flag_of(name)} is at least 1")
    for name, (low, high, words) in _RANGES.items():
        value = given.get(name)
        if value is None:
            continue
        inside = low <= value < high if name != "valid_labels" else low < value <= high
        if not inside:
            raise UsageError(f"{flag_of(name)} {value} is not possible", remedy=f"{flag_of(name)} is {words}")
    positive = ("learning_rate", "num_train_epochs", "second_learning_rate", "second_epochs")
    for name in (*positive, "warmup_steps", "weight_decay", "max_grad_norm"):
        value = given.get(name)
        above_zero = name in positive
        if value is not None and not (math.isfinite(value) and (value > 0 or (value == 0 and not above_zero))):
            words = "a finite number above 0" if above_zero else "a finite number of at least 0"
            raise UsageError(f"{flag_of(name)} {value} is not possible", remedy=f"{flag_of(name)} is {words}")


def _check_method(given: Mapping[str, Any]) -> None:
    method = given.get("method", "lora")
    if method == "two-stage":
        raise UsageError(
            "--method two-stage is two setups, one after the other, each with a budget of its own",
            remedy="vramplan estimate or vramplan plan takes both; here name one: --method lora, or --method full "
            "--trainable-blocks N",
        )
    for name, methods in OPTION_METHODS.items():
        if given.get(name) in (None, False, "auto") or method in methods or name == "kbit_preparation":
            continue
        flag = flag_of(name)
        if name == "quant":
            raise UsageError(
                f"--quant {given['quant']} with --method {method}: quantised weights cannot be trained",
                remedy="use --method qlora, or leave --quant out",
            )
        if method == "full" and "lora" in methods:
            raise UsageError(
                f"{flag} belongs to an adapter, and --method full has none",
                remedy=f"leave {flag} out, or use --method lora",
            )
        raise UsageError(
            f"{flag} belongs to --method {' or '.join(methods)}, not to {method}",
            remedy=f"leave {flag} out, or use --method {methods[0]}",
        )


def check_virtual_tokens(given: Mapping[str, Any]) -> None:
    """What virtual tokens before each row cannot be combined with.

    Raises:
        UsageError: PEFT refuses it, or would compute something else without a word.
    """
    method = given.get("method")
    if method == "prefix" and given.get("gradient_checkpointing"):
        raise UsageError(
            "--method prefix with --gradient-checkpointing: a checkpointed layer drops the prefix's keys and values, "
            "and PEFT refuses the pair",
            remedy="use --no-gradient-checkpointing, or --method ptuning, which checkpoints",
        )
    if method in OPTION_METHODS["virtual_tokens"] and given.get("packing"):
        raise UsageError(
            f"--method {method} with --packing: a packed row holds several examples but would get one set of virtual "
            "tokens",
            remedy="leave --packing out, or use --method lora",
        )


def _check_quant(given: Mapping[str, Any]) -> None:
    quantised = given.get("quant") is not None or given.get("method") == "qlora"
    if not quantised and given.get("double_quant") is False:
        raise UsageError(
            "--no-double-quant belongs to a quantised base", remedy="add --method qlora, or leave --no-double-quant out"
        )
    if not quantised and given.get("kbit_preparation"):
        raise UsageError(
            "--kbit-preparation belongs to a quantised base",
            remedy="add --method qlora, or leave --kbit-preparation out",
        )


def _check_loop(given: Mapping[str, Any]) -> None:
    loop, loss = given.get("loop", "executor"), given.get("loss", "auto")
    if given.get("task", "causal-lm") != "causal-lm":
        return
    if loop != "executor" and loss == "fused":
        raise UsageError(
            f"--loss fused with --loop {loop}: the fused loss is trl's, and that loop does not have it",
            remedy="use --loss auto, or --loop executor",
        )
