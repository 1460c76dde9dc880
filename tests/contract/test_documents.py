"""What the documents promise exists: command lines run, links lead somewhere, every option and plan field is told."""

import json
import re
import shlex
from pathlib import Path

import pytest

from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.cli.main import COMMANDS, build_parser, run_command
from vramplan.planner.plan import PLAN_FORMAT, Plan
from vramplan.planner.plan_hash import READINGS
from vramplan.tui.web import web_parser

REPOSITORY = Path(__file__).parents[2]
PAGES = [REPOSITORY / "README.md", REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
RUN_HERE = ("models", "devices", "estimate", "methods", "plan", "explain", "export", "doctor")
"""Commands that a test can carry out in moments; the others need torch, a run, or seconds, and are parsed alone."""
ANSWERS = (0, 1, 3, 4)
"""Exit codes of a command that was understood: a verdict of any kind."""
ONE_OF_EACH = ("recipes.md", "troubleshooting.md", "extending.md", "README.md")
"""Pages whose planning commands are carried out; those of the others are parsed."""


def _lines(page: Path) -> list[str]:
    """Command lines, those that go on after a backslash joined, redirections cut off."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^ *(?:\$ )?vramplan (\S.*)$", text, re.MULTILINE)
    shown = [line for line in found if re.match(r"[a-z]+\b", line) and "PLAN" not in line and "MODEL" not in line]
    return [re.split(r" [<>#|] ", line)[0].strip() for line in shown if line.split()[0] in NAMES and "..." not in line]


NAMES = {command.name for command in COMMANDS}
LINES = [(page, line) for page in PAGES for line in dict.fromkeys(_lines(page))]


def _is_run(page: Path, line: str) -> bool:
    return page.name in ONE_OF_EACH and line.split()[0] in RUN_HERE and "--solve" not in line


@pytest.mark.parametrize(("page", "line"), LINES, ids=[f"{page.name}: {line}" for page, line in LINES])
def test_a_command_line_of_a_document_parses(page: Path, line: str) -> None:
    argv = shlex.split(line)
    build_parser(argv[0]).parse_all(argv)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_planning_commands_of_a_page_work_in_the_order_they_stand(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a person would type them, in one folder with a model of Llama 3.1's config and some rows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("vramplan.planner.adapters.tokenizer_files._file", lambda *_, **__: "no tokenizer here")
    monkeypatch.setattr("vramplan.planner.adapters.models._offline", lambda: True)
    model = resolve_model("meta-llama/Llama-3.1-8B", online=False)
    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text(json.dumps(dict(model.config)))
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"text": f"row {row} " * 9}) + "\n" for row in range(20)))
    for block in re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs" / "recipes.md").read_text(), re.DOTALL):
        (tmp_path / "train.yaml").write_text(block)
    failed = {}
    for page, line in LINES:
        if page.name == name and _is_run(page, line) and "report.json" not in line:
            code = run_command(["RTX 4090" if word == "auto" else word for word in shlex.split(line)])
            said = capsys.readouterr().err
            if code not in ANSWERS or "error:" in said:
                failed[line] = (code, said)
    assert failed == {}


def test_every_page_has_commands_that_are_run() -> None:
    assert {name for name in ONE_OF_EACH if any(_is_run(page, line) for page, line in LINES if page.name == name)} == {
        *ONE_OF_EACH
    }
    assert len(LINES) > 40


def test_the_readme_shows_the_three_jobs() -> None:
    shown = {line.split()[0] for page, line in LINES if page.name == "README.md"}
    assert {"estimate", "recommend", "plan", "run", "explain"} <= shown <= NAMES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["recipes.md", "troubleshooting.md", "extending.md", "threats.md"])
def test_every_file_a_page_names_exists(name: str) -> None:
    page = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:planner|executor|tui|tests|fuzz|hardware_profiles|benchmarks)/[\w./*-]+)`", page))
    assert {path for path in named if not list(REPOSITORY.glob(path))} == set()


def test_every_option_a_page_names_is_one_of_some_command() -> None:
    parsers = [build_parser(name).command for name in NAMES]
    known = {option for parser in parsers if parser is not None for option in parser._option_string_actions}
    known |= {"--web", *web_parser()._option_string_actions}
    for name in ("recipes.md", "troubleshooting.md", "extending.md", "threats.md"):
        page = (REPOSITORY / "docs" / name).read_text(encoding="utf-8")
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", page)) - known - {"--force-reinstall"} == set(), name


def test_the_walk_through_the_app_shows_every_frame_in_order() -> None:
    page = (REPOSITORY / "docs" / "walkthrough.md").read_text(encoding="utf-8")
    shown = re.findall(r"<!-- (\w+) -->\n\n```text\n(.*?)```\n\n<!-- /\1 -->", page, re.DOTALL)
    kept = sorted((REPOSITORY / "docs" / "frames").glob("*.txt"))
    assert shown == [(path.stem.partition("-")[2], path.read_text(encoding="utf-8")) for path in kept]


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
