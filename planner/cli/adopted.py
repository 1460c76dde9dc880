"""A command whose MODEL is another trainer's config file: its settings become options nobody gave."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.trainer_configs import read_trainer_config
from vramplan.planner.cli.options import PLACE, RECIPE, SETUP, Option
from vramplan.planner.cli.render import tell
from vramplan.planner.errors import UsageError

_OWN_LOOP = ("loop", "loss")
"""What a plan of ours decides by itself, because our executor runs it."""


def adopt_config(args: argparse.Namespace) -> None:
    """Put the model and the settings of the config file ``args.model`` in its place; options that were given stay.

    Raises:
        UsageError: the file is no trainer's config, or a value in it is none the option takes.
        UnsupportedError: it asks for something that is not priced.
    """
    path = Path(args.model)
    options = {option.name: option for option in (*PLACE, *SETUP, *RECIPE)}
    given = {name for name in options if vars(args).get(name) is not None}
    found = read_trainer_config(path, given=given)
    ours = set(_OWN_LOOP) if args.command == "plan" else set()
    for name, value in found.options.items():
        if name in vars(args) and name not in given | ours:
            setattr(args, name, _read(options[name], value, path))
    args.model = found.model
    tell(f"{found.engine} config {path.name}: {found.model}")
    if ours & set(found.options):
        tell("  a plan is run by vramplan's own loop, with its loss")
    if found.unread:
        tell(f"  not read, as nothing here depends on it or it is not known: {', '.join(found.unread)[:400]}")
    for note in found.notes:
        tell(f"  note: {note}")


def _read(option: Option, value: Any, path: Path) -> Any:
    """The value as the option itself would read it."""
    if option.read is None:
        if not isinstance(value, bool):
            raise UsageError(f"{path.name}: {option.name} {value!r:.60} is neither true nor false", remedy="correct it")
        return value
    try:
        return option.read(str(value))
    except (argparse.ArgumentTypeError, ValueError) as problem:
        raise UsageError(f"{path.name}: {option.name} {value!r:.60}: {problem}", remedy="correct the file") from None
