"""``vramplan --web``: the app in a browser on this machine, over textual-serve. Running is off unless it is allowed.

textual-serve asks nobody who they are, and a page of any site may open a socket to this machine. So it is served on the
loopback address alone, and a request is answered only where it names that address and comes from a page served there
(OWASP, cross-site WebSocket hijacking; the Host header against DNS rebinding).
"""

import argparse
import shlex
import sys
from typing import Any

from vramplan.planner.errors import ExitCode, MissingExtraError, UsageError

HOST = "127.0.0.1"
PORT = 8000
PORTS = range(1024, 65536)


def serve(arguments: list[str]) -> int:
    """Serve until Ctrl-C.

    Raises:
        UsageError: a port that is none a person may use.
        MissingExtraError: textual-serve is not installed.
    """
    args = web_parser().parse_args(arguments)
    if args.port not in PORTS:
        raise UsageError(f"--port {args.port} is not possible", remedy=f"a port from {PORTS.start} up")
    server = _server(args.port, child_command(allow_run=args.allow_run))
    server.serve()
    return int(ExitCode.OK)


def web_parser() -> argparse.ArgumentParser:
    """The options of ``vramplan --web``."""
    parser = argparse.ArgumentParser(prog="vramplan --web", description="The app in a browser on this machine.")
    parser.add_argument("--port", type=int, default=PORT, help=f"{PORT} without")
    parser.add_argument("--allow-run", action="store_true", help="runs may be started, merged and chatted with")
    return parser


def child_command(*, allow_run: bool) -> str:
    """The command each page starts: the app, drawing for a browser."""
    return shlex.join([sys.executable, "-P", "-m", "vramplan.tui.web_app", *(["--allow-run"] if allow_run else [])])


def is_ours(host: str | None, origin: str | None, port: int) -> bool:
    """Whether a request is meant for this server, and made by a page of it or by no page.

    >>> is_ours("127.0.0.1:8000", "http://127.0.0.1:8000", 8000), is_ours("127.0.0.1:8000", "http://evil.test", 8000)
    (True, False)
    """
    here = [f"{name}:{port}" for name in (HOST, "localhost")]
    return host in here and (origin is None or origin in [f"http://{name}" for name in here])


def _server(port: int, command: str) -> Any:
    try:
        from aiohttp import web
        from textual_serve.server import Server
    except ImportError as error:
        raise MissingExtraError(f"not installed: {error.name}", remedy='pip install "vramplan[web]"') from error

    async def ours_alone(request: Any, handler: Any) -> Any:
        if not is_ours(request.headers.get("Host"), request.headers.get("Origin"), port):
            raise web.HTTPForbidden(text="this address is for pages of its own\n")
        return await handler(request)

    class LoopbackServer(Server):  # type: ignore[misc]
        async def _make_app(self) -> Any:
            app = await super()._make_app()
            app.middlewares.append(web.middleware(ours_alone))
            return app

    return LoopbackServer(command, host=HOST, port=port, title="vramplan")
