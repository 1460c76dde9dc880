"""The server of ``vramplan --web``: textual-serve, for pages of its own alone, quiet, and ended at once.

textual-serve and aiohttp come with the ``web`` extra: only ``tui.web`` imports this, when it is asked to serve.
"""

import asyncio
from pathlib import Path
from typing import Any

from aiohttp import web
from textual_serve.server import Server

from vramplan.planner.cli.render import tell
from vramplan.tui.web import HOST, fences, is_ours

PAGE = Path(__file__).with_name("web_page")
"""Our own page: textual-serve's fetches its typeface from another site."""


class LoopbackServer(Server):  # type: ignore[misc]
    """Serves a command's screen on the loopback address, one process for each open page."""

    def __init__(self, command: str, *, port: int) -> None:
        super().__init__(command, host=HOST, port=port, title="vramplan", templates_path=PAGE)
        self._answering: set[asyncio.Task[Any]] = set()

    async def _make_app(self) -> Any:
        app = await super()._make_app()
        app.router.add_static("/page", PAGE)
        app.middlewares.append(self._ours_alone)
        app.on_response_prepare.append(self._fence)
        return app

    @web.middleware  # type: ignore[untyped-decorator]
    async def _ours_alone(self, request: Any, handler: Any) -> Any:
        if not is_ours(request.headers.get("Host"), request.headers.get("Origin"), self.port):
            raise web.HTTPForbidden(text="this address is for pages of its own\n")
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            return await handler(request)
        finally:
            self._answering.discard(task)

    async def _fence(self, request: Any, response: Any) -> None:
        response.headers.update(fences(self.port))

    async def on_startup(self, app: Any) -> None:
        """Nothing is said before it listens."""

    async def on_shutdown(self, app: Any) -> None:
        """End the apps of the open pages: aiohttp would wait a minute for somebody to close them."""
        for task in self._answering:
            task.cancel()

    def serve(self, debug: bool = False) -> None:
        """Listen until Ctrl-C; say where on stderr, and nothing of who asked for what.

        Raises:
            OSError: the port cannot be had.
        """
        web.run_app(self._make_app(), host=self.host, port=self.port, print=self._announce, access_log=None)

    def _announce(self, *_said: object) -> None:
        tell(f"the app is at {self.public_url}", "  Ctrl-C ends it, and the app of every open page")
