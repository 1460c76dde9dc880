"""docs/options.md is what the parsers say."""

from pathlib import Path

from vramplan.planner.cli.options_page import options_page

PAGE = Path(__file__).parents[2] / "docs" / "options.md"


def test_the_page_is_what_the_parsers_say() -> None:
    remedy = "python -m vramplan.planner.cli.options_page > docs/options.md"
    assert PAGE.read_text(encoding="utf-8") == options_page(), remedy


def test_every_option_says_what_it_is_for() -> None:
    rows = [line for line in options_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 100
    assert not [row for row in rows if not row.split(" | ")[1].strip(" |")]
