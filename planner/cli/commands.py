"""Command lines a person can paste: the options they gave, with a candidate's choices in place of theirs."""

import argparse
import shlex
from typing import Any

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.options import PLACE, SETUP


def plan_command(args: argparse.Namespace, candidate: Candidate) -> str:
    """The ``vramplan plan`` line that freezes a candidate found under these arguments."""
    setup = candidate.setup
    given = {option.name: vars(args).get(option.name) for option in (*PLACE, *SETUP)}
    chosen: dict[str, Any] = given | {"method": setup.method.kind}
    if not setup.gradient_checkpointing or given["gradient_checkpointing"] is not None:
        chosen["gradient_checkpointing"] = setup.gradient_checkpointing
    if given["optimizer"] is not None or "8bit" in setup.optimizer:
        chosen["optimizer"] = setup.optimizer
    if given["micro_batch"] is not None:
        chosen["micro_batch"] = setup.micro_batch_size
    if given["gradient_accumulation_steps"] is not None:
        chosen["gradient_accumulation_steps"] = setup.gradient_accumulation_steps
    if setup.method.kind == "full":
        chosen |= dict.fromkeys(("rank", "alpha", "target", "lora_dropout", "use_rslora", "use_dora", "adapter_dtype"))
    words = ["vramplan", "plan", args.model]
    for name, value in chosen.items():
        words += option_words(name, value)
    return shlex.join(words)


def option_words(name: str, value: Any) -> list[str]:
    """One option as it is typed; nothing for None.

    >>> option_words("rank", 8), option_words("packing", False), option_words("data", None)
    (['--rank', '8'], ['--no-packing'], [])
    """
    if value is None:
        return []
    flag = name.replace("_", "-")
    if isinstance(value, bool):
        return [f"--{'' if value else 'no-'}{flag}"]
    return [f"--{flag}", f"{value:g}" if isinstance(value, float) else str(value)]
