"""A real browser for tests: a headless Chromium over its DevTools protocol, with the client that textual-serve brings.

The browser is ``$VRAMPLAN_CHROMIUM``, or the first Chromium on the path. The page's terminal draws on a canvas, so what
stands on the screen is read from the terminal's own buffer.
"""

import asyncio
import base64
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome")

# The page keeps its terminal to itself, in a field of that name: the first one that is set is kept for us too.
_KEEP_THE_TERMINAL = """
Object.defineProperty(Object.prototype, "terminal", {configurable: true, set(value) {
  globalThis.kept ??= value;
  Object.defineProperty(this, "terminal", {value, writable: true, configurable: true, enumerable: true});
}});
"""
_READ_THE_TERMINAL = """
[...Array(kept.rows).keys()].map(y => kept.buffer.active.getLine(kept.buffer.active.viewportY + y)
  .translateToString(true)).join("\\n")
"""
_KEYS = {"enter": ("Enter", 13, "\r"), "escape": ("Escape", 27, "")}


def chromium() -> str | None:
    """The browser's program, or None where there is none."""
    return os.environ.get("VRAMPLAN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab: opened, read, typed into, closed."""

    def __init__(self, socket: Any) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        self.asked_for: list[str] = []
        """Every address the page has fetched."""
        self.complaints: list[str] = []
        """What the browser objected to: a fence in the way, a file that is missing."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result.

        Raises:
            RuntimeError: the browser refuses it.
        """
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters, **self._session})
        while True:
            said = await self._socket.receive_json(timeout=60)
            if said.get("method") == "Network.requestWillBeSent":
                self.asked_for.append(said["params"]["request"]["url"])
            if said.get("method") == "Log.entryAdded":
                self.complaints.append(said["params"]["entry"]["text"])
            if said.get("id") == number:
                if "error" in said:
                    raise RuntimeError(f"{method}: {said['error']}")
                return said["result"]  # type: ignore[no-any-return]

    async def start(self) -> None:
        """A tab of its own, ready to be sent somewhere."""
        target = await self.call("Target.createTarget", url="about:blank", width=1000, height=700)
        session = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": session["sessionId"]}
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call("Page.addScriptToEvaluateOnNewDocument", source=_KEEP_THE_TERMINAL)

    async def open(self, url: str) -> None:
        """Go there.

        Raises:
            RuntimeError: nobody answers.
        """
        if failed := (await self.call("Page.navigate", url=url)).get("errorText"):
            raise RuntimeError(f"{url}: {failed}")

    async def value(self, expression: str) -> Any:
        """What a piece of JavaScript says on the page, a promise waited for."""
        said = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return said["result"].get("value")

    async def screen(self) -> str:
        """The terminal's rows; empty before there is one."""
        return await self.value(f"globalThis.kept ? {_READ_THE_TERMINAL} : ''") or ""

    async def wait(self, text: str, seconds: float = 60) -> str:
        """The screen, once it shows a text.

        Raises:
            AssertionError: it does not.
        """
        for _ in range(int(seconds * 10)):
            if text in (screen := await self.screen()):
                return screen
            await asyncio.sleep(0.1)
        raise AssertionError(f"{text!r} is not on the screen:\n{await self.screen()}")

    async def press(self, *keys: str, until: str) -> str:
        """Press keys as a person does, and wait for a text."""
        for key in keys:
            name, code, text = _KEYS[key] if key in _KEYS else (key, ord(key.upper()) if key.isalnum() else 0, key)
            pressed: dict[str, Any] = {"key": name, "windowsVirtualKeyCode": code, "text": text}
            await self.call("Input.dispatchKeyEvent", type="keyDown", **pressed)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=name, windowsVirtualKeyCode=code)
        return await self.wait(until)

    async def picture(self, path: Path) -> None:
        """What the page looks like, as PNG."""
        path.write_bytes(base64.b64decode((await self.call("Page.captureScreenshot"))["data"]))


@asynccontextmanager
async def browsing(program: str) -> AsyncIterator[Page]:
    """A page of a browser of its own, which is ended afterwards."""
    from aiohttp import ClientSession

    with tempfile.TemporaryDirectory(prefix="vramplan-browser-", ignore_cleanup_errors=True) as profile:
        # No sandbox: in a container, and for root, Chromium has none; the page is our own.
        process = await asyncio.create_subprocess_exec(
            *[program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"],
            *[f"--user-data-dir={profile}", "--no-first-run", "--disable-background-networking", "about:blank"],
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with (
                ClientSession() as session,
                session.ws_connect(await _address(Path(profile)), max_msg_size=0) as ws,
            ):
                page = Page(ws)
                await page.start()
                yield page
        finally:
            process.kill()
            await process.wait()


async def _address(profile: Path) -> str:
    for _ in range(600):
        if (told := profile / "DevToolsActivePort").exists() and "\n" in (said := told.read_text()):
            port, path = said.split("\n")[:2]
            return f"ws://127.0.0.1:{port}{path}"
        await asyncio.sleep(0.1)
    raise AssertionError("the browser has not started")
