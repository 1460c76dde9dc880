"""Driving the app in tests: wait for what the screen shows, read it as text."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from textual.pilot import Pilot

from vramplan.tui.app import VramplanApp
from vramplan.tui.core import Core

PATIENCE_SECONDS = 20.0
"""Only how long a broken app hangs a test; nothing is timed."""


def screen_text(app: VramplanApp) -> str:
    """What the terminal shows, line by line, without trailing blanks."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())


class Driver:
    """A person at the keyboard, who waits until the screen shows something."""

    def __init__(self, pilot: Pilot[int], app: VramplanApp, patience_seconds: float) -> None:
        self.pilot, self.app, self.patience_seconds = pilot, app, patience_seconds

    async def press(self, *keys: str, until: str | Callable[[], bool] = "") -> str:
        """Press keys, wait for a text on the screen (or a condition), return the screen."""
        await self.pilot.press(*keys)
        return await self.wait(until)

    async def type(self, text: str) -> None:
        """Type a text, character by character."""
        await self.pilot.press(*("space" if character == " " else character for character in text))

    async def wait(self, until: str | Callable[[], bool] = "") -> str:
        """Wait for a text on the screen, or for a condition."""
        wanted = (lambda: until in screen_text(self.app)) if isinstance(until, str) else until
        try:
            async with asyncio.timeout(self.patience_seconds):
                while True:
                    await self.pilot.pause()
                    if wanted():
                        return screen_text(self.app)
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"never shown: {until!r}\n{screen_text(self.app)}") from None

    async def settle(self, until: str) -> str:
        """Wait for a text, then until nothing is at work and the screen no longer changes; return the screen."""
        before, text = "", await self.wait(until)
        while text != before or any(worker.is_running for worker in self.app.workers):
            await asyncio.sleep(0.05)
            before, text = text, await self.wait()
        return text

    @property
    def step(self) -> str:
        """The name of the screen on top."""
        return str(getattr(self.app.screen, "step", type(self.app.screen).__name__))


@asynccontextmanager
async def driving(
    core: Core, size: tuple[int, int] = (80, 24), patience_seconds: float = PATIENCE_SECONDS
) -> AsyncGenerator[Driver, None]:
    """The app on a core, with its first screen painted."""
    app = VramplanApp(core)
    async with app.run_test(size=size) as pilot:
        driver = Driver(pilot, app, patience_seconds)
        await driver.wait(lambda: driver.step == "model")
        yield driver


async def train_three_steps(driver: Driver, model: Path, data: Path, *, pauses: bool = False) -> str:
    """From the first screen to the report of a finished run, on the first device here; the report's screen.

    Args:
        pauses: ask for a pause while it loads, and let it go on from there.
    """
    await driver.press("d", until="here: ")
    await driver.press("enter", until=lambda: driver.step == "model")
    await driver.press("slash")
    await driver.type(str(model))
    await driver.press("enter", until="headroom")
    await driver.press(*["j"] * 6, "enter", until="training file (empty")
    await driver.type(str(data))
    await driver.press("enter", until=".jsonl ")
    await driver.press("j", "enter", until="steps (empty")
    await driver.press("3", "enter", until="headroom")
    await driver.press("6", until="3 steps")
    await driver.press("s", until="written: runs/")
    await driver.press("r", until="now?")
    await driver.press("y", until="running")
    if pauses:
        await driver.press("p", until="paused after step 1")
        await driver.press("p", until="going on after a pause of")
    await driver.wait("done: 8 sets the estimate")
    return await driver.press("8", until="measured by")
