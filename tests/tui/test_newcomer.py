"""The newcomer's short path, every key counted and every screen kept as text: from a typed name to a saved plan for a
24 GB card in nine keys, from there to a running demo in two."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.fakes import make_cpu
from tests.golden_text import assert_golden
from tests.tui.driving import driving
from tests.tui.fake_core import FakeCore, script
from vramplan.executor.events import Event
from vramplan.executor.preflight import Preflight
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.device import Device
from vramplan.tui.choice import SavedPlan
from vramplan.tui.live_core import LiveCore
from vramplan.tui.remembered import Remembered

NAME = "llama-3.1-8b"
TO_A_SAVED_PLAN = (
    ("enter", "meta-llama/Llama-3.1-8B"),
    ("d", "here: CPU"),
    *(("4090"[at], f"{'4090'[: at + 1]}") for at in range(4)),
    ("enter", "headroom"),
    ("6", "not saved yet"),
    ("s", "written: runs/"),
)
"""Each key, and what it brings."""
TO_A_RUNNING_DEMO = (("t", "Train a small model here now?"), ("y", "step 1 of 3"))


class NewcomersCore(LiveCore):
    """The real planner on a machine without an accelerator; the demo and its run are scripted: they need PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        self._script = FakeCore(events=script(), hold_after=4)
        self.launched = self._script.launched

    def default_device(self) -> tuple[Device | None, str]:
        return None, "no accelerator here: d names one"

    def devices(self) -> tuple[Device, ...]:
        return (make_cpu(),)

    def remembered(self) -> Remembered:
        return Remembered()

    def remember(self, remembered: Remembered) -> None:
        """A newcomer each time."""

    def demo(self) -> SavedPlan:
        return self._script.demo()

    def preflight(self, saved: SavedPlan) -> Preflight:
        return self._script.preflight(saved)

    def launch(self, saved: SavedPlan, *, resume: bool = False) -> AsyncGenerator[Event, None]:
        return self._script.launch(saved, resume=resume)

    def stop(self) -> None:
        self._script.stop()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
async def test_a_newcomer_has_a_plan_for_a_24_gb_card_in_nine_keys_and_a_demo_whose_run_is_scripted_here_in_two_more(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    core, seen = NewcomersCore(), []
    async with driving(core, size) as driver:
        seen.append(("the start", await driver.settle("d picks a card")))
        await driver.press("slash")
        await driver.type(NAME)
        seen.append((f"/ and {NAME} typed", await driver.settle("meta-llama/Llama-3.1-8B")))
        for number, (key, brings) in enumerate(TO_A_SAVED_PLAN, start=1):
            await driver.press(key)
            seen.append((f"key {number}: {key}", await driver.settle(brings)))
        assert driver.app.state.saved is not None
        plan = read_plan(Path(driver.app.state.saved.path))
        assert core.launched == []
        for number, (key, brings) in enumerate(TO_A_RUNNING_DEMO, start=1):
            await driver.press(key)
            seen.append((f"key {number} from the saved plan: {key}", await driver.wait(brings)))
        core.stop()
    assert len(TO_A_SAVED_PLAN) < 10
    assert plan.device is not None
    assert (plan.model.repo_id, plan.device.name) == ("meta-llama/Llama-3.1-8B", "NVIDIA GeForce RTX 4090")
    assert [saved.path for saved, _ in core.launched] == ["runs/demo/plan.json"]
    assert_golden(f"newcomer_{size[0]}.txt", "\n\n".join(f"=== {after}\n{screen}" for after, screen in seen) + "\n")
