"""An argument parser whose errors are ours: one line and the nearest option. ``--help-all`` shows rare options too."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NoReturn

from vramplan.planner.errors import UsageError
from vramplan.planner.units import parse_bytes

RARE = "rare options"
"""Title of the group that ``--help`` leaves out."""


class Parser(argparse.ArgumentParser):
    """argparse without abbreviations, raising UsageError instead of printing and leaving."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{"allow_abbrev": False, "add_help": False} | arguments)
        self.add_argument("-h", "--help", action=_Help, help="show the options most people need")
        self._rare: argparse._ArgumentGroup | None = None
        self.command: Parser | None = None
        """The parser of the command asked for, where this is the root."""

    @property
    def rare(self) -> argparse._ArgumentGroup:
        """The group of options that only ``--help-all`` shows."""
        if self._rare is None:
            self.add_argument("--help-all", action=_HelpAll, help="show every option")
            self._rare = self.add_argument_group(RARE)
        return self._rare

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print.

        Raises:
            UsageError: always.
        """
        unknown = message.removeprefix("unrecognized arguments: ")
        remedy = f"see: {self.prog} --help"
        if unknown != message:
            option = unknown.split()[0].partition("=")[0]
            nearest = get_close_matches(option, self._option_string_actions, n=1)
            message = f"no such {'option' if option.startswith('-') else 'argument here'}: {unknown}"
            remedy = f"did you mean {nearest[0]}?" if nearest else remedy
        raise UsageError(message, remedy=remedy)

    def parse_all(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse a command's arguments; what is left over is an error of the command's own parser."""
        arguments, left = self.parse_known_args(argv)
        if left:
            (self.command or self).error(f"unrecognized arguments: {' '.join(left)}")
        return arguments


class _Help(argparse._HelpAction):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any, **named: Any) -> None:
        rare = [action for group in parser._action_groups if group.title == RARE for action in group._group_actions]
        for action in rare:
            action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


class _HelpAll(argparse._HelpAction):
    def __call__(self, parser: argparse.ArgumentParser, *rest: Any, **named: Any) -> None:
        parser.print_help()
        parser.exit()


@dataclass(frozen=True)
class OneOf:
    """A type that takes one of some names, and offers the nearest for any other."""

    names: tuple[str, ...]

    def __call__(self, text: str) -> str:
        if text in self.names:
            return text
        nearest = get_close_matches(text, self.names, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(self.names)}"
        raise argparse.ArgumentTypeError(f"{text!r} is not known; {hint}")


def one_of(*names: str) -> OneOf:
    """A type that takes one of these names."""
    return OneOf(names)


def whole_number(text: str) -> int:
    """A type for counts. Whether the count makes sense is checked where it is used."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal()) or len(digits) > 15:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
    return int(text)


def number(text: str) -> float:
    """A type for finite numbers."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a number")
    return value


def pairs(text: str) -> dict[str, str]:
    """A type for names such as ``text=review,label=stars``."""
    found = [part.partition("=") for part in text.split(",")]
    if not all(name.strip() and other.strip() for name, _, other in found):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not names; write for example text=review,label=stars")
    return {name.strip(): other.strip() for name, _, other in found}


def size(text: str) -> int:
    """A type for sizes such as ``12GiB``, in bytes."""
    try:
        return parse_bytes(text)
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a size; write for example 12GiB") from error
