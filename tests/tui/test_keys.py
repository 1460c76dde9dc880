"""One table of actions: what is documented, offered and bound is the same."""

from pathlib import Path

from tests.tui.driving import driving, screen_text
from tests.tui.fake_core import FakeCore
from tests.tui.test_app import to_run
from vramplan.tui.app import VramplanApp
from vramplan.tui.bindings import ACTIONS, STEPS, TITLES
from vramplan.tui.keys_page import keys_page
from vramplan.tui.screens.confirm import Confirm
from vramplan.tui.screens.files import FilePicker
from vramplan.tui.screens.help import Help
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.widgets.knob_list import KnobList
from vramplan.tui.widgets.row_table import RowTable

PAGE = Path(__file__).parents[2] / "docs" / "keys.md"
OWNERS = {
    "app": VramplanApp,
    "list": RowTable,
    "knobs": KnobList,
    "dialog": FilePicker,
    "question": Confirm,
    "help": Help,
}


def test_the_page_of_keys_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == keys_page(), "python -m vramplan.tui.keys_page > docs/keys.md"


def test_every_action_is_bound_somewhere_and_its_method_exists() -> None:
    owners: dict[str, type] = {**OWNERS, **{name: type(VramplanApp.SCREENS[name]()) for name, _ in STEPS}}
    assert {action.scope for action in ACTIONS} == set(TITLES)
    for action in ACTIONS:
        target, _, name = action.action.partition("(")[0].rpartition(".")
        owner = VramplanApp if target == "app" else owners[action.scope]
        assert hasattr(owner, f"action_{name}"), action.id
        bound = {binding.id for binding in owners[action.scope].BINDINGS}
        assert action.id in bound


async def test_the_palette_offers_what_is_possible_on_this_screen() -> None:
    async with driving(FakeCore()) as driver:
        await driver.wait("fake/llama-8b")
        offered = {command.title for command in driver.app.get_system_commands(driver.app.screen)}
        assert {"Find", "Device", "Help", "Quit"} <= offered
        assert not {"Undo", "Compare", "Save", "Stop"} & offered
        await driver.press("enter", until="headroom")
        await driver.press("l", until=lambda: bool(driver.app.state.undo))
        commands = {command.title: command for command in driver.app.get_system_commands(driver.app.screen)}
        assert {"Undo", "View", "Compare"} <= set(commands)
        assert "Redo" not in commands
        await commands["View"].callback()  # type: ignore[misc]
        await driver.wait("‹phases›")


async def test_help_begins_with_the_keys_of_the_screen_it_is_asked_from() -> None:
    async with driving(FakeCore()) as driver:
        await driver.wait("fake/llama-8b")
        await driver.press("enter", until="headroom")
        text = await driver.press("question_mark", until="undo the last change")
        assert text.index("│ 4 Budget") < text.index("undo the last change")


async def test_every_action_of_the_table_can_be_taken_where_it_is_offered() -> None:
    taken = []
    async with driving(FakeCore(), (120, 40)) as driver:
        await to_run(driver)
        await driver.press("r", "y", until="done: 8 sets")
        for screen in [name for name, _ in STEPS]:
            for action in ACTIONS:
                if action.scope != screen and not (action.scope in ("app", "list", "knobs") and screen == "hardware"):
                    continue
                if action.id == "app.quit":
                    continue
                await driver.app.action_go(screen)
                await driver.wait(lambda screen=screen: driver.step == screen)  # type: ignore[misc]
                owner = {"list": RowTable, "knobs": KnobList}.get(action.scope)
                target = driver.app.screen if owner is None else driver.app.screen.query(owner).first()
                await driver.app.run_action(action.action, driver.app if action.scope == "app" else target)
                await driver.wait()
                taken.append(action.id)
                while not isinstance(driver.app.screen, StepScreen):
                    await driver.press("escape")
                assert "unexpected" not in screen_text(driver.app), action.id
        assert driver.app.is_running
    modal = {action.id for action in ACTIONS if action.scope in ("dialog", "question", "help")}
    assert set(taken) == {action.id for action in ACTIONS} - modal - {"app.quit"}
