"""The planner's commands. Only the module of the command asked for is imported, so the others cost nothing to have.

Each command module has ``add_parser(subparsers)``, which adds a parser under the command's name and ends in
``parser.set_defaults(run=run)``, and ``run(args) -> ExitCode``.
"""

import gc
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import version
from typing import NamedTuple

from vramplan.planner.cli.parsing import Parser
from vramplan.planner.cli.render import show, table, tell, terminal_width
from vramplan.planner.errors import ExitCode, UsageError, VramplanError


class Command(NamedTuple):
    """A command's name, the module that has it, and what it is for in a few words."""

    name: str
    module: str
    summary: str


COMMANDS: tuple[Command, ...] = (
    Command("models", "vramplan.planner.cli.models", "the models known here, and on the Hub when online"),
    Command("devices", "vramplan.planner.cli.devices", "what is here, and the cards known by name"),
    Command("estimate", "vramplan.planner.cli.estimate", "price one setup, or each method"),
    Command("recommend", "vramplan.planner.cli.recommend", "ranked setups, with reasons"),
    Command("methods", "vramplan.planner.cli.methods", "what each method trains, costs, risks and suits"),
    Command("trace", "vramplan.planner.cli.trace", "make a memory program, or trace what ships again"),
    Command("plan", "vramplan.planner.cli.plan", "freeze one setup into a plan file"),
    Command("explain", "vramplan.planner.cli.explain", "a plan's budget, beside what really happened"),
    Command("export", "vramplan.planner.cli.export", "a plan as a script, or for another trainer or a cluster"),
    Command("verify", "vramplan.executor.verify_cli", "a few real steps of a plan, the longest rows first"),
    Command("run", "vramplan.executor.cli", "run a plan, supervised"),
    Command("runs", "vramplan.executor.runs_cli", "what was run here, planned beside used"),
    Command("merge", "vramplan.executor.merge_cli", "a trained adapter folded into its base, or taken out alone"),
    Command("evaluate", "vramplan.executor.evaluate_cli", "base and tuned model on rows neither was shown"),
    Command("chat", "vramplan.executor.chat_cli", "ask one base with the adapters of several runs, switched live"),
    Command("calibrate", "vramplan.executor.calibrate_cli", "what runs here have taught, and a short set to measure"),
    Command("doctor", "vramplan.planner.cli.doctor", "what works on this machine, and what to install"),
    Command("demo", "vramplan.executor.demo_cli", "all of it on a small real model, on the hardware here"),
)


GARBAGE_THRESHOLD = 100_000
"""Objects made between two looks for cycles, 700 where Python is left alone: a command makes hundreds of thousands,
nearly all without cycles, and is over in a second."""


def command_modules() -> tuple[str, ...]:
    """The modules that hold the commands, in the order of the help."""
    return tuple(command.module for command in COMMANDS)


def build_parser(name: str, commands: Sequence[Command] = COMMANDS) -> Parser:
    """The parser of one command; only its module is imported.

    Raises:
        UsageError: there is no such command.
    """
    found = next((command for command in commands if command.name == name), None)
    if found is None:
        nearest = get_close_matches(name, [command.name for command in commands], n=1)
        remedy = f"did you mean: vramplan {nearest[0]}" if nearest else "see: vramplan --help"
        raise UsageError(f"no command {name[:40]!r}", remedy=remedy)
    parser = Parser(prog="vramplan", description="A VRAM planner and advisor with executable plans.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    import_module(found.module).add_parser(subparsers)
    parser.command = subparsers.choices[name]
    return parser


def run_command(argv: Sequence[str], extra_modules: Sequence[Command] = ()) -> int:
    """Run one command line to its exit code; an error is two lines on stderr, never a traceback.

    Args:
        extra_modules: commands of other parts of the program, shown and dispatched like the planner's.
    """
    commands = (*COMMANDS, *extra_modules)
    gc.set_threshold(GARBAGE_THRESHOLD)
    try:
        code = _run(list(argv), commands)
        sys.stdout.flush()
        return code
    except VramplanError as error:
        tell(f"error: {error.message}", *([f"  {error.remedy}"] if error.remedy else []))
        return int(error.exit_code)
    except KeyboardInterrupt:
        tell("stopped")
        return int(ExitCode.INTERRUPTED)
    except BrokenPipeError:
        # The reader went away (a pager was closed). Python would complain again when it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(ExitCode.OK)


def main(argv: Sequence[str] | None = None) -> int:
    """The planner's own command line."""
    return run_command(sys.argv[1:] if argv is None else argv)


def _run(argv: list[str], commands: Sequence[Command]) -> int:
    if not argv or argv[0] in ("-h", "--help", "--help-all", "help"):
        show(overview(commands))
        return int(ExitCode.OK)
    if argv[0] == "--version":
        show(f"vramplan {version('vramplan')}")
        return int(ExitCode.OK)
    if argv[0].startswith("-"):
        raise UsageError(f"no such option: {argv[0][:40]}", remedy="a command comes first; see: vramplan --help")
    try:
        args = build_parser(argv[0], commands).parse_all(argv)
    except SystemExit as leaving:  # --help has been printed
        return int(leaving.code or 0)
    if str(vars(args).get("model") or "").endswith((".yaml", ".yml")):
        import_module("vramplan.planner.cli.adopted").adopt_config(args)
    return int(args.run(args))


def overview(commands: Sequence[Command]) -> str:
    """What ``vramplan --help`` prints."""
    rows = [["command", "what it does"], *([f"vramplan {command.name}", command.summary] for command in commands)]
    return (
        "A VRAM planner and advisor with executable plans for fine-tuning Hugging Face models.\n\n"
        f"{table(rows, '<<', width=terminal_width())}\n\n"
        "vramplan COMMAND --help shows a command's options; --help-all shows the rare ones too."
    )
