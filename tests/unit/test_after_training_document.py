"""The page on what comes after training: its command lines parse, its table of chat commands is the chat's own."""

import re
import shlex
from pathlib import Path

import pytest

from vramplan.executor.chat_session import COMMANDS
from vramplan.executor.evaluate_wire import EVALUATION
from vramplan.planner.cli.main import build_parser
from vramplan.planner.method_facts import FACTS

PAGE = (Path(__file__).parents[2] / "docs" / "after-training.md").read_text(encoding="utf-8")
LINES = re.findall(r"^    \$ vramplan (\S.*)$", PAGE, re.MULTILINE)


@pytest.mark.parametrize("line", LINES)
def test_a_command_line_of_the_page_parses(line: str) -> None:
    argv = shlex.split(line.partition(" < ")[0])
    assert build_parser(argv[0]).parse_all(argv).run is not None


def test_every_command_after_training_is_shown() -> None:
    assert {line.split()[0] for line in LINES} == {"evaluate", "chat", "merge"}


def test_the_table_of_chat_commands_is_the_chats_own() -> None:
    shown = set(re.findall(r"^\| `(/[a-z]+)", PAGE, re.MULTILINE))
    assert shown == set(COMMANDS) - {"/help"}


def test_the_methods_said_to_merge_are_those_that_do() -> None:
    names = {"lora": "LoRA", "qlora": "QLoRA", "ia3": "IA3", "ln-tuning": "LN-tuning"}
    assert {facts.kind for facts in FACTS if facts.mergeable} == names.keys()
    assert "folds LoRA, QLoRA, IA3 and LN-tuning" in PAGE
    assert f"`{EVALUATION}`" in PAGE
