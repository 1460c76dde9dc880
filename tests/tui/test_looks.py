"""The app without colour, on a dark ground and on a light one: every screen says the same."""

import pytest
from textual.color import Color
from textual.theme import BUILTIN_THEMES

from tests.golden_text import assert_golden
from tests.tui.driving import Driver, driving
from tests.tui.fake_core import FakeCore
from tests.tui.test_app import to_budget
from vramplan.tui.bindings import STEPS
from vramplan.tui.light import ON_LIGHT
from vramplan.tui.remembered import Remembered
from vramplan.tui.theme import COMPONENTS, VERDICTS

EVERY_STEP = tuple(name for name, _ in STEPS)


def colours(driver: Driver) -> set[str]:
    """The colours that the terminal is sent, its own two left out."""
    styles = [segment.style for strip in driver.app.screen._compositor.render_strips() for segment in strip]
    found = [each for style in styles if style is not None for each in (style.color, style.bgcolor)]
    return {each.name for each in found if each is not None and not each.is_default}


async def the_screens_say_what_they_always_say(core: FakeCore) -> set[str]:
    """The screens whose words come in colours, beside their golden text; the colours seen."""
    seen = set()
    async with driving(core, (80, 24)) as driver:
        assert_golden("app_80_1_model.txt", await driver.settle("7.47"))
        await to_budget(driver)
        assert_golden("app_80_4_budget.txt", await driver.settle("7.47"))
        seen |= colours(driver)
        await driver.press("n", until="a fake reason for lora")
        await driver.press("j")
        assert_golden("app_80_5_compare.txt", await driver.settle("a fake reason for qlora"))
        seen |= colours(driver)
    return seen


async def test_no_color_leaves_every_word_and_sends_no_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert await the_screens_say_what_they_always_say(FakeCore()) == set()


async def test_a_light_ground_leaves_every_word_and_darkens_the_colours() -> None:
    seen = await the_screens_say_what_they_always_say(
        FakeCore(kept=Remembered(theme="textual-light", hinted=EVERY_STEP))
    )
    assert {shade.lower() for shade in ON_LIGHT.values()} & seen
    assert not {colour.lower() for colour in ON_LIGHT} & seen


async def test_the_look_is_chosen_by_a_key_and_kept_for_the_next_time() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        assert driver.app.current_theme.dark
        await driver.press("T", until="Search for themes")
        await driver.type("textual-light")
        await driver.press("enter", until=lambda: driver.app.theme == "textual-light")
    assert core.kept.theme == "textual-light"
    async with driving(core) as driver:
        assert driver.app.theme == "textual-light"


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio, 1 to 21, from its definition of relative luminance."""

    def luminance(colour: str) -> float:
        parts = [part / 255 for part in Color.parse(colour).rgb]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_words_and_bars_stand_out_as_the_accessibility_guidelines_ask_on_either_ground() -> None:
    # WCAG 2.2: 4.5 to 1 for text (1.4.3), 3 to 1 for graphics (1.4.11).
    assert contrast("#000000", "#FFFFFF") == pytest.approx(21.0)
    dark, light = "#121212", BUILTIN_THEMES["textual-light"].background
    assert light is not None
    words, bars = {colour for _, colour in VERDICTS.values()}, {colour for _, colour in COMPONENTS.values()}
    assert words | bars <= set(ON_LIGHT)
    assert min(contrast(colour, dark) for colour in words) >= 4.5
    assert min(contrast(colour, dark) for colour in bars) >= 3.0
    assert min(contrast(ON_LIGHT[colour], light) for colour in words | bars) >= 4.5
