"""What arrives late is no trap for who is quick: each order of events that a busy machine brings about, forced."""

import threading

from tests.tui.driving import driving
from tests.tui.fake_core import FakeCore
from vramplan.planner.device import Device
from vramplan.tui.state import State


async def test_a_device_found_after_the_model_was_chosen_prices_the_choice_anew() -> None:
    core, found = FakeCore(), threading.Event()
    device = core.default_device

    def slow() -> tuple[Device | None, str]:
        found.wait(timeout=60.0)  # only so that a broken app does not hang the test
        return device()

    core.default_device = slow  # type: ignore[method-assign]
    async with driving(core) as driver:
        await driver.press("slash")
        await driver.type("llama-8b")
        await driver.press("enter", until="no verdict")
        found.set()
        await driver.wait("headroom")
        assert driver.app.state.choice.device == core.device


async def test_a_device_counts_as_chosen_only_when_what_is_typed_next_goes_to_the_screen_before() -> None:
    async with driving(FakeCore()) as driver:
        await driver.wait("fake/llama-8b")
        app, seen = driver.app, []
        back, change = app.action_back, app.change

        async def gone_back() -> None:
            await back()
            seen.append(f"back on {driver.step}")

        def changed(state: State) -> None:
            if state.choice.device != app.state.choice.device:
                seen.append("chosen")
            change(state)

        app.action_back, app.change = gone_back, changed  # type: ignore[method-assign]
        await driver.press("d", until="here: CPU")
        await driver.type("h100")
        await driver.press("enter", until=lambda: len(seen) == 2)
        assert seen == ["back on model", "chosen"]
        await driver.press("2", until="RTX 3060 12 GB")
        await driver.press("3", until=lambda: driver.step == "workload")
