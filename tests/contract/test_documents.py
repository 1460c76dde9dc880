"""What the documents promise exists: command lines parse, links lead somewhere, every plan field is told."""

import re
import shlex
from pathlib import Path

import pytest

from vramplan.planner.cli.main import COMMANDS, build_parser
from vramplan.planner.plan import PLAN_FORMAT, Plan
from vramplan.planner.plan_hash import READINGS

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]


def _command_lines() -> list[str]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^\$ vramplan (\S.*)$", text, re.MULTILINE)


@pytest.mark.parametrize("line", _command_lines())
def test_a_command_line_of_the_readme_parses(line: str) -> None:
    argv = shlex.split(line)
    build_parser(argv[0]).parse_all(argv)


def test_the_readme_shows_the_three_jobs() -> None:
    shown = {line.split()[0] for line in _command_lines()}
    assert {"estimate", "recommend", "plan", "run", "explain"} <= shown <= {command.name for command in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_make_targets_the_readme_names_exist() -> None:
    named = set(re.findall(r"[`$] ?make ([a-z-]+)", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert {"demo", "check"} <= named
    assert {target for target in named if not re.search(rf"^{target}:", makefile, re.MULTILINE)} == set()


def test_every_field_of_a_plan_and_every_reading_is_documented() -> None:
    page = (REPOSITORY / "docs" / "plan-file.md").read_text(encoding="utf-8")
    named = {*Plan.model_fields, "file_sha256", *(path[-1] for path in READINGS)}
    assert {name for name in named if f"`{name}`" not in page} == set()
    assert f"this format is {PLAN_FORMAT}" in page
