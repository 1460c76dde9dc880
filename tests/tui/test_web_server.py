"""``vramplan --web`` itself: a server and its apps, each a process, driven over the socket and in a real Chromium.

The first needs the ``web`` extra; the second a Chromium too (``$VRAMPLAN_CHROMIUM``, or one on the path).
"""

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.executor.factories import make_tiny_llama, prompt_completion_rows, write_jsonl
from tests.tui.browser import browsing, chromium
from vramplan.planner.cli.main import run_command

aiohttp = pytest.importorskip("aiohttp", reason="needs the web extra")
pytest.importorskip("textual_serve", reason="needs the web extra")

MODEL = "HuggingFaceTB/SmolLM2-135M"
ESCAPES = re.compile(r"\x1b(\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(\x07|\x1b\\)|[@-Z\\^_])")


class Server:
    """``vramplan --web`` on a free port."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    def apps(self) -> list[psutil.Process]:
        """What it has started."""
        return psutil.Process(self.process.pid).children(recursive=True)  # type: ignore[no-any-return]


@asynccontextmanager
async def serving(folder: Path, *options: str) -> AsyncIterator[Server]:
    """The command, until the block is left."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", "import sys; from vramplan.tui.cli import main; sys.exit(main())"],
        *["--web", "--port", str(port), *options],
        cwd=folder,
        # what an app remembers of its last time, another test's may be
        env={**os.environ, "HF_HUB_OFFLINE": "1", "XDG_CONFIG_HOME": str(folder / "config")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        assert await process.stderr.readline() == f"the app is at http://127.0.0.1:{port}\n".encode()
        yield Server(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def all_gone(processes: list[psutil.Process]) -> None:
    """They end by themselves."""
    _gone, left = await asyncio.to_thread(psutil.wait_procs, processes, timeout=60)
    assert left == []


class Socket:
    """A page without a browser: the socket that a page opens, and the text that came through it."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._said = ""

    async def wait(self, text: str, seconds: float = 120) -> str:
        """What has been drawn since the last key, once a text is in it.

        Raises:
            AssertionError: it is not drawn.
        """
        try:
            async with asyncio.timeout(seconds):
                while text not in (drawn := ESCAPES.sub("", self._said)):
                    self._said += (await self._socket.receive_bytes()).decode()
                return drawn
        except TimeoutError:
            raise AssertionError(f"{text!r} is not in what was drawn:\n{drawn}") from None

    async def press(self, *keys: str, until: str) -> str:
        """Press keys and wait for a text."""
        self._said = ""
        for key in keys:
            await self._socket.send_str(json.dumps(["stdin", {"enter": "\r"}.get(key, key)]))
        return await self.wait(until)


@asynccontextmanager
async def connected(server: Server) -> AsyncIterator[Socket]:
    """The socket of one page."""
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{server.url}/ws?width=100&height=40", origin=server.url) as socket,
    ):
        await socket.send_str(json.dumps(["focus"]))
        yield Socket(socket)


@asynccontextmanager
async def opened(server: Server) -> AsyncIterator[Any]:
    """A page in Chromium, which fetched nothing from anywhere else and had nothing to object to."""
    program = chromium()
    if program is None:
        pytest.skip("needs a Chromium: $VRAMPLAN_CHROMIUM, or one on the path")
    async with browsing(program) as page:
        await page.open(server.url)
        yield page
        assert {url.removeprefix(server.url).split("/")[0] for url in page.asked_for} == {""}
        assert [said for said in page.complaints if "WebGL" not in said] == []


@pytest.mark.parametrize("page_of", [connected, opened])
@pytest.mark.parametrize("allowed", [False, True])
async def test_a_model_is_sized_and_its_plan_saved_in_a_browser_and_run_only_where_that_is_allowed(
    page_of: Any, allowed: bool, tmp_path: Path
) -> None:
    async with serving(tmp_path, *(["--allow-run"] if allowed else [])) as server:
        async with page_of(server) as page:
            await page.wait("a model's name, a folder, or a Hub id")
            await page.press("/", until="/ Find  esc Back")
            await page.press(*"SmolLM2-135M", until="134.5 M")
            await page.press("enter", until="no verdict   peak")
            await page.press("6", until="not saved yet")
            await page.press("s", until="written")
            if allowed:
                await page.press("r", until="the plan names no training file")
            else:
                await page.press("r", until="running is off in a browser: vramplan --web --allow-run")
            apps = server.apps()
            assert apps
        plans = [json.loads(path.read_text()) for path in tmp_path.rglob("plan.json")]
        assert [MODEL in json.dumps(plan) for plan in plans] == [True]
        await all_gone(apps)


@pytest.mark.train
async def test_a_run_that_a_page_has_started_ends_with_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_tiny_llama(tmp_path / "tiny")
    data = write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows())
    monkeypatch.chdir(tmp_path)
    options = ["--method", "lora", "--device", "cpu", "--dtype", "fp32", "--rank", "4", "--max-steps", "5000"]
    assert run_command(["plan", str(model), *options, "--data", str(data), "-o", "runs/long/plan.json"]) == 0
    async with serving(tmp_path, "--allow-run") as server:
        async with connected(server) as page:
            await page.wait("a model's name, a folder, or a Hub id")
            await page.press("8", until="runs/long is planned")
            await page.press("r", until="Run runs/long/plan.json now?")
            await page.press("y", until="running")
            apps = server.apps()
            assert any("vramplan.executor" in " ".join(each.cmdline()) for each in apps)
        await all_gone(apps)


@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
async def test_a_server_that_ends_takes_the_apps_of_its_pages_along(ended_by: signal.Signals, tmp_path: Path) -> None:
    async with serving(tmp_path) as server:
        async with connected(server) as page:
            await page.wait("Model")
            apps = server.apps()
            server.process.send_signal(ended_by)
            await all_gone(apps)
        out, err = await server.process.communicate()
    assert out == b""
    assert b"Traceback" not in err


async def test_it_listens_on_one_address_and_answers_pages_of_its_own_alone(tmp_path: Path) -> None:
    async with serving(tmp_path) as server, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):  # Linux has all of 127/8: a server for every address answers
            await session.get(f"http://127.0.0.2:{server.port}/")
        async with session.get(server.url) as ours:
            page = await ours.text()
            assert (ours.status, "http://" in page.replace(server.url, ""), "https://" in page) == (200, False, False)
            assert "frame-ancestors 'none'" in ours.headers["Content-Security-Policy"]
        foreign = [{"Host": f"rebound.test:{server.port}"}, {"Origin": "http://evil.test"}, {"Origin": "null"}]
        for path in ("/", "/ws", "/static/js/textual.js", "/page/page.js"):
            for headers in foreign:
                async with session.get(f"{server.url}{path}", headers=headers) as refused:
                    assert refused.status == 403
        for headers in foreign:
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await session.ws_connect(f"{server.url}/ws", headers=headers)
        assert server.apps() == []
        async with serving_again(server, tmp_path) as (code, said):
            assert code == 2
            assert f"port {server.port} cannot be had" in said
            assert "vramplan --web --port" in said


@asynccontextmanager
async def serving_again(server: Server, folder: Path) -> AsyncIterator[tuple[int | None, str]]:
    """Another one on the same port."""
    process = await asyncio.create_subprocess_exec(
        *[sys.executable, "-c", "import sys; from vramplan.tui.cli import main; sys.exit(main())"],
        *["--web", "--port", str(server.port)],
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, err = await process.communicate()
    yield process.returncode, err.decode()
