"""The app in a browser: for pages of its own on this machine alone, and without running unless that is allowed."""

import importlib.util

import pytest

from tests.tui.driving import Driver, driving
from tests.tui.fake_core import FakeCore
from tests.tui.test_app import to_budget
from vramplan.tui.cli import main
from vramplan.tui.web import child_command, is_ours


@pytest.mark.parametrize(
    ("host", "origin", "answered"),
    [
        ("127.0.0.1:8000", None, True),
        ("localhost:8000", "http://localhost:8000", True),
        ("127.0.0.1:8000", "http://evil.test", False),
        ("127.0.0.1:8000", "https://127.0.0.1:8000", False),
        ("127.0.0.1:8000", "http://127.0.0.1:9000", False),
        ("127.0.0.1:8000", "null", False),
        ("rebound.test:8000", None, False),
        (None, None, False),
    ],
)
def test_a_page_of_another_site_reaches_nothing(host: str | None, origin: str | None, answered: bool) -> None:
    assert is_ours(host, origin, 8000) is answered


def test_running_is_off_unless_it_is_allowed() -> None:
    assert child_command(allow_run=False).endswith("-P -m vramplan.tui.web_app")
    assert child_command(allow_run=True).endswith("-P -m vramplan.tui.web_app --allow-run")


async def test_where_running_is_off_a_plan_is_saved_and_nothing_is_started() -> None:
    core = FakeCore()
    async with driving(core) as driver:
        await driver.wait("fake/llama-8b")
        driver.app.change(driver.app.state.model_copy(update={"may_run": False}))
        await choose_and_save(driver)
        await driver.press("r", until="running is off in a browser: vramplan --web --allow-run")
        await driver.press("8", "m", until="running is off in a browser")
    assert (core.launched, core.merged) == ([], [])


async def choose_and_save(driver: Driver) -> None:
    """As far as a saved plan."""
    await to_budget(driver)
    await driver.press("6", until="not saved yet")
    await driver.press("s", until="written")


def test_a_port_that_is_none_and_an_absent_library_are_said_in_two_lines(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--web", "--port", "abc"]) == 2
    assert "'abc' is not a whole number" in capsys.readouterr().err
    assert main(["--web", "--port", "80"]) == 2
    assert "a port from 1024 up" in capsys.readouterr().err
    if importlib.util.find_spec("textual_serve") is None:
        assert main(["--web"]) != 0
        assert 'pip install "vramplan[web]"' in capsys.readouterr().err
