"""Command lines a person can paste: the options they gave, with a candidate's choices in place of theirs."""

import argparse
import shlex
from collections.abc import Mapping
from typing import Any

from vramplan.planner.cli.options import PLACE, SETUP

DEFAULTS = {"rank": 16, "alpha": 32}
"""What a search may give though it is what the command would take anyway."""


def plan_command(args: argparse.Namespace, options: Mapping[str, Any]) -> str:
    """The ``vramplan plan`` line that freezes a setup found under these arguments.

    Args:
        options: what makes the setup, as ``planner.resolve.resolve`` takes it.
    """
    place = {option.name: vars(args).get(option.name) for option in PLACE}
    setup = {option.name: options.get(option.name) for option in SETUP}
    left_out = {name for name, value in DEFAULTS.items() if vars(args).get(name) is None and setup[name] == value}
    words = ["vramplan", "plan", args.model]
    for name, value in (place | setup).items():
        words += [] if name in left_out else option_words(name, value)
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
