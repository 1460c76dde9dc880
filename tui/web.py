"""``vramplan --web``: the app in a browser on this machine, over textual-serve. Running is off unless it is allowed.

textual-serve asks nobody who they are, and a page of any site may open a socket to this machine. So it is served on the
loopback address alone, and a request is answered only where it names that address and comes from a page served there
(OWASP, cross-site WebSocket hijacking; the Host header against DNS rebinding); no page of another site may hold ours in
a frame, and ours fetches nothing from another site.
"""

import shlex
import sys
from importlib.util import find_spec

from vramplan.planner.cli.parsing import Parser, whole_number
from vramplan.planner.errors import ExitCode, MissingExtraError, UsageError

HOST = "127.0.0.1"
PORT = 8000
PORTS = range(1024, 65536)


def serve(arguments: list[str]) -> int:
    """Serve until Ctrl-C.

    Raises:
        UsageError: a port that is none a person may use, or that is taken.
        MissingExtraError: textual-serve is not installed.
    """
    args = web_parser().parse_args(arguments)
    if args.port not in PORTS:
        raise UsageError(f"--port {args.port} is not possible", remedy=f"a port from {PORTS.start} up")
    if find_spec("textual_serve") is None:
        raise MissingExtraError("not installed: textual_serve", remedy='pip install "vramplan[web]"')
    from vramplan.tui.web_server import LoopbackServer

    try:
        LoopbackServer(child_command(allow_run=args.allow_run), port=args.port).serve()
    except OSError as error:
        raise UsageError(
            f"port {args.port} cannot be had: {error.strerror or error}",
            remedy=f"another one: vramplan --web --port {args.port + 1}",
        ) from error
    return int(ExitCode.OK)


def web_parser() -> Parser:
    """The options of ``vramplan --web``."""
    parser = Parser(prog="vramplan --web", description="The app in a browser on this machine.")
    parser.add_argument("--port", type=whole_number, default=PORT, help=f"{PORT} without")
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
    here = _names(port)
    return host in here and (origin is None or origin in [f"http://{name}" for name in here])


def fences(port: int) -> dict[str, str]:
    """The headers of every answer: what the page may load, from here alone, and that nobody else may hold it.

    ``style-src`` is open to the page's own text: the terminal places its cells with styles of its own.
    """
    sockets = " ".join(f"ws://{name}" for name in _names(port))
    allowed = [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "font-src 'self'",
        "img-src 'self' data:",
        f"connect-src 'self' {sockets}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "Content-Security-Policy": "; ".join(allowed),
        "Cross-Origin-Resource-Policy": "same-origin",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _names(port: int) -> list[str]:
    return [f"{name}:{port}" for name in (HOST, "localhost")]
