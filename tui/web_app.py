"""The process behind one page of ``vramplan --web``: the app on its real core, started by textual-serve."""

import sys

from textual.drivers.web_driver import WebDriver
from textual.messages import ExitApp

from vramplan.planner.errors import ExitCode
from vramplan.tui.app import VramplanApp
from vramplan.tui.live_core import LiveCore


class PageDriver(WebDriver):
    """Textual's driver for a browser, whose app ends with the server: Textual's own would stay, alone, for ever."""

    def run_input_thread(self) -> None:
        """Until the page is closed, which is a message, or the server is gone, which is the end of the input."""
        super().run_input_thread()
        if not self.exit_event.is_set():
            self._app.post_message(ExitApp())


class PageApp(VramplanApp):
    """The app, drawn for a browser."""

    def get_driver_class(self) -> type[PageDriver]:
        """Whatever the environment says."""
        return PageDriver


def main() -> int:
    """Run the app until its page is closed."""
    app = PageApp(LiveCore(), may_run="--allow-run" in sys.argv[1:])
    return app.run() or int(ExitCode.OK)


if __name__ == "__main__":
    sys.exit(main())
