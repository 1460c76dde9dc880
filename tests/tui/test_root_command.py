"""The root command: commands pass through it, the app opens only on a terminal."""

import pytest

from vramplan.tui.cli import main


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("models", "devices", "estimate", "recommend", "plan", "explain", "run", "demo"):
        assert f"vramplan {command} " in shown


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("vramplan 0.")


def test_an_unknown_command_offers_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimat"]) == 2
    assert "did you mean: vramplan estimate" in capsys.readouterr().err


def test_the_app_refuses_to_open_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "the app needs a terminal" in capsys.readouterr().err
