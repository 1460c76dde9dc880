"""The page on threats names tests; each of them exists."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "threats.md").read_text(encoding="utf-8")


def test_every_test_the_page_names_exists() -> None:
    there = {
        name
        for path in (REPOSITORY / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 30
    assert named - there == set()


def test_every_threat_has_a_test() -> None:
    threats = PAGE.partition("## Any bytes at all")[0]
    rows = [line for line in threats.splitlines() if line.startswith("|") and not re.match(r"\|(-| what could)", line)]
    assert [row for row in rows if "`test_" not in row] == []
