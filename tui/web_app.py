"""The process behind one page of ``vramplan --web``: the app on its real core, started by textual-serve."""

import sys

from vramplan.planner.errors import ExitCode
from vramplan.tui.app import VramplanApp
from vramplan.tui.live_core import LiveCore


def main() -> int:
    """Run the app until its page is closed."""
    app = VramplanApp(LiveCore(), may_run="--allow-run" in sys.argv[1:])
    return app.run() or int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
