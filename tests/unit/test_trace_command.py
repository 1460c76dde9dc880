"""``vramplan trace`` over canned traces: what it says was proved, and that a difference fails."""

import json
import shlex
from collections.abc import Iterator

import pytest

from tests.programs import hand_written
from vramplan.planner.adapters import tracing
from vramplan.planner.adapters.tracing import Checked, Traced
from vramplan.planner.cli import trace as command
from vramplan.planner.cli.main import main
from vramplan.planner.errors import NoProgramError
from vramplan.planner.programs.key import ProgramKey

LINE = "trace HuggingFaceTB/SmolLM2-135M --method lora --device 'RTX 4090'"


def checked(*differences: int | None) -> list[Checked]:
    return [Checked(f"program {index}", off == 0, off) for index, off in enumerate(differences)]


@pytest.mark.parametrize(
    ("differences", "code", "words"),
    [
        ((0, 0), 0, "2 of 2 as they ship"),
        ((0, 512), 1, "DIFFERENT, +512 bytes at the most  program 1"),
        ((None,), 1, "DIFFERENT  program 0"),
    ],
)
def test_a_check_fails_where_a_byte_differs(
    differences: tuple[int | None, ...],
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = []

    def check_shipped(count: int) -> Iterator[Checked]:
        asked.append(count)
        yield from checked(*differences)

    monkeypatch.setattr(tracing, "check_shipped", check_shipped)
    assert main(["trace", "--check"]) == code
    assert words in capsys.readouterr().out
    assert main(["trace", "--check", "9", "--json"]) == code
    answer = json.loads(capsys.readouterr().out)
    assert [each["difference_bytes"] for each in answer["checked"]] == list(differences)
    assert asked == [4, 9]


def test_a_program_that_ships_is_named_and_not_traced(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(f"{LINE} --json")) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["origin"] == "shipped"
    assert answer["mode"]["method"] == "lora"
    assert set(answer["versions"]) >= {"torch", "transformers", "peft", "trl"}


def test_what_was_traced_says_what_it_was_proved_at(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = hand_written()
    traced = Traced(program, {"B": 2, "S": 1100}, 6, {"forward": 2**20, "loss": 2**21, "backward": 2**22})
    monkeypatch.setattr(tracing, "trace_now", lambda key: traced)
    monkeypatch.setattr(command, "known_program", _nothing_known)
    monkeypatch.setenv("COLUMNS", "100")
    assert main(shlex.split(LINE)) == 0
    output = capsys.readouterr()
    assert "0 bytes off in every phase" in " ".join(output.out.split())
    assert "B = 2 · S = 1100" in output.out
    assert "loss 2.00 MiB" in output.out
    assert "tracing llama with lora" in output.err


def _nothing_known(key: ProgramKey) -> None:
    raise NoProgramError("nothing is here yet")


def test_traced_again_a_different_program_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    traced = Traced(hand_written(), {"B": 2}, 6, {"forward": 1})
    monkeypatch.setattr(tracing, "trace_now", lambda key: traced)
    monkeypatch.setattr(command, "newer_libraries", lambda program: {})
    assert main(shlex.split(f"{LINE} --again")) == 1
    assert "DIFFERENT from the shipped program" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["trace", "trace llama --check 2", "trace --check 0"])
def test_a_trace_of_nothing_is_refused(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(line.split()) == 2
    assert "vramplan trace" in capsys.readouterr().err
