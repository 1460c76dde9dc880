"""The root command. Without arguments it opens the app; with them it is one of the commands, and loads no app."""

import gc
import os
import sys
from collections.abc import Sequence

from vramplan.planner.cli.render import tell
from vramplan.planner.errors import ExitCode, VramplanError


def main(argv: Sequence[str] | None = None) -> int:
    """``vramplan [COMMAND ...]``: runs it and returns its exit code (``planner.errors.ExitCode``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--web"]:
        return _serve(arguments[1:])
    if not arguments:
        return _open_app()
    from vramplan.planner.cli.main import run_command  # nor does the app pay for the commands

    return run_command(arguments)


def _serve(arguments: list[str]) -> int:
    from vramplan.tui.web import serve

    try:
        return serve(arguments)
    except VramplanError as error:
        tell(f"error: {error.message}", f"  {error.remedy}")
        return int(error.exit_code)


def _open_app() -> int:
    # Textual reads stdin and draws on stderr.
    if not (sys.stdin.isatty() and sys.stdout.isatty() and sys.stderr.isatty()):
        tell("error: the app needs a terminal", "  every screen is a command too: vramplan --help")
        return int(ExitCode.USAGE)
    no_color = os.environ.get("NO_COLOR")
    gc.disable()  # until the first frame is painted: nothing that is imported is garbage
    # Textual and what it needs take a quarter of a second to import; no command pays for them.
    from vramplan.tui.app import VramplanApp
    from vramplan.tui.live_core import LiveCore

    app = VramplanApp(LiveCore())
    if no_color is not None:
        os.environ["NO_COLOR"] = no_color  # Textual takes it out; the training child shall still see it
    return app.run() or int(ExitCode.OK)
