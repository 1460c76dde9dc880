"""What stands between the start of the app and its first frame: nothing that the frame does not show."""

import gc
import subprocess
import sys
from typing import cast

from textual._context import active_app

from tests.tui.driving import driving, screen_text
from tests.tui.fake_core import FakeCore
from vramplan.planner.adapters.models import ModelSummary
from vramplan.planner.device import Device
from vramplan.tui.app import VramplanApp
from vramplan.tui.bindings import STEPS
from vramplan.tui.navigation import made

OPENED = """
import sys
from vramplan.tui.app import VramplanApp
from vramplan.tui.live_core import LiveCore
from vramplan.tui.screens.model import ModelScreen
VramplanApp(LiveCore())
print(*sorted(sys.modules))
"""
LATER = (
    "vramplan.planner.adapters.devices",
    "vramplan.planner.adapters.models",
    "vramplan.planner.cli.main",
    "vramplan.planner.memory.price",
    "vramplan.planner.resolve",
    "vramplan.executor.launcher",
    *(f"vramplan.tui.screens.{step}" for step, _ in STEPS if step != "model"),
)


def test_the_first_screen_is_painted_before_pricing_probing_and_the_other_screens_are_imported() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", OPENED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & set(LATER) == set()


async def test_what_is_garbage_is_looked_for_again_once_the_first_frame_is_there() -> None:
    gc.disable()
    try:
        async with driving(FakeCore()) as driver:
            await driver.wait(gc.isenabled)
    finally:
        gc.enable()


async def test_the_frame_is_there_before_the_catalogue_is_read_and_the_device_asked_for() -> None:
    core, seen = FakeCore(), []
    search, device = core.search_models, core.default_device

    def searched(query: str, limit: int) -> tuple[ModelSummary, ...]:
        seen.append(screen_text(cast(VramplanApp, active_app.get())))
        return search(query, limit)

    def asked() -> tuple[Device | None, str]:
        seen.append(screen_text(cast(VramplanApp, active_app.get())))
        return device()

    core.search_models, core.default_device = searched, asked  # type: ignore[method-assign]
    async with driving(core) as driver:
        await driver.settle("7.47")
    assert len(seen) == 2
    assert all("What this card can tune" in text for text in seen)


def test_every_numbered_screen_is_made_by_its_name() -> None:
    assert [getattr(made(step, title), "step", None) for step, title in STEPS] == [step for step, _ in STEPS]
