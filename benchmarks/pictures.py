"""The app's screens as SVG, made by the app itself: a catalogue model on a card's data sheet, nothing typed by hand.

    python benchmarks/pictures.py

Writes docs/pictures/. The card is a profile, so the pictures are the same on every machine.
"""

import asyncio
from pathlib import Path

from textual.pilot import Pilot

from vramplan.planner.adapters.devices import resolve_device
from vramplan.tui.app import VramplanApp
from vramplan.tui.bindings import STEPS
from vramplan.tui.live_core import LiveCore
from vramplan.tui.messages import ModelChosen
from vramplan.tui.remembered import Remembered

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
MODEL, CARD, SIZE = "meta-llama/Llama-3.1-8B", "RTX 4090", (100, 32)


class ProfileCore(LiveCore):
    """The real core, with a card from its data sheet in place of what this machine has."""

    def default_device(self):  # type: ignore[no-untyped-def]
        return resolve_device(CARD, memory_bytes=None, reserve_bytes=0)

    def devices(self):  # type: ignore[no-untyped-def]
        return ()

    def remembered(self):  # type: ignore[no-untyped-def]
        return Remembered(hinted=tuple(name for name, _ in STEPS))

    def remember(self, remembered):  # type: ignore[no-untyped-def]
        """A picture leaves nothing behind."""


async def take_pictures() -> None:
    """Walk through the app and take a picture of each screen worth one."""
    app = VramplanApp(ProfileCore())
    async with app.run_test(size=SIZE) as pilot:
        await _settled(pilot, app)
        _take(app, "model")
        app.post_message(ModelChosen(app.core.resolve_model(MODEL), "qlora"))
        await _settled(pilot, app)
        _take(app, "budget")
        await pilot.press("v", "v", "v")
        await _settled(pilot, app)
        _take(app, "step")
        await pilot.press("5")
        await _settled(pilot, app)
        _take(app, "compare")
        await pilot.press("2")
        await _settled(pilot, app)
        _take(app, "hardware")


async def _settled(pilot: Pilot[int], app: VramplanApp) -> None:
    """Nothing is at work any more, and what came of it is painted."""
    await pilot.pause(0.3)
    while any(worker.is_running for worker in app.workers) or (app.state.choice.model and app.state.priced is None):
        await pilot.pause(0.1)
    await pilot.pause(0.3)


def _take(app: VramplanApp, name: str) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    (PICTURES / f"{name}.svg").write_text(app.export_screenshot(title="vramplan", simplify=True), encoding="utf-8")


if __name__ == "__main__":
    asyncio.run(take_pictures())
