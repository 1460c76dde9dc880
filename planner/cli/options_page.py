"""docs/options.md, made from the commands' own parsers.

python -m vramplan.planner.cli.options_page > docs/options.md
"""

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

from vramplan.planner.cli.main import COMMANDS, build_parser
from vramplan.planner.cli.parsing import Parser

HEAD = """# Every option

Made by `python -m vramplan.planner.cli.options_page` from the parsers of the commands. What a plan keeps of them is
told in [plan-file.md](plan-file.md); which methods go with which tasks, in [methods.md](methods.md). A command's
`--help` shows the options most people need, its `--help-all` every one.
"""

SHARED = 3
"""Options of at least so many commands stand in a table of their own."""


class Option(NamedTuple):
    """An option as it is read: its spellings, the value it takes and what it is for."""

    flags: tuple[str, ...]
    value: str
    meaning: str

    @property
    def cell(self) -> str:
        """The option with its value, then its other spellings."""
        first, *others = self.flags or (self.value,)
        value = f" {self.value}" if self.flags and self.value else ""
        return f"`{first}{value}`" + "".join(f", `{other}`" for other in others)


def options_page() -> str:
    """The page, whole."""
    found = {command.name: tuple(_options(_parser(command.name))) for command in COMMANDS}
    holders: dict[Option, list[str]] = {}
    for name, options in found.items():
        for option in options:
            holders.setdefault(option, []).append(name)
    shared = {option: names for option, names in holders.items() if len(names) >= SHARED}
    parts = [HEAD, "\n## Of several commands\n\n", "| option | meaning | of |\n", "|---|---|---|\n"]
    parts += [f"| {option.cell} | {_text(option.meaning)} | {', '.join(names)} |\n" for option, names in shared.items()]
    for command in COMMANDS:
        parts.append(f"\n## {command.name}\n\n{command.summary[0].upper()}{command.summary[1:]}.\n")
        own = [option for option in found[command.name] if option not in shared]
        if own:
            parts += ["\n| option | meaning |\n", "|---|---|\n"]
            parts += [f"| {option.cell} | {_text(option.meaning)} |\n" for option in own]
    return "".join(parts)


def _parser(name: str) -> Parser:
    parser = build_parser(name).command
    assert parser is not None
    return parser


def _options(parser: Parser) -> Iterator[Option]:
    """What the help shows, each once; spellings that the help leaves out are beside the one it shows."""
    actions = [action for group in parser._action_groups for action in group._group_actions]
    for action in actions:
        if action.help is argparse.SUPPRESS or {"--help", "--help-all"} & set(action.option_strings):
            continue
        hidden = [
            flag
            for other in actions
            if other.help is argparse.SUPPRESS and other.dest == action.dest
            for flag in other.option_strings
            if flag not in action.option_strings
        ]
        value = "" if action.nargs == 0 else str(action.metavar or action.dest.upper())
        yield Option((*action.option_strings, *hidden), value, action.help or "")


def _text(meaning: str) -> str:
    return meaning.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(options_page())
