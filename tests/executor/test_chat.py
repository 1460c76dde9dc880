"""Chat: adapters switched live answer as each does alone, the base stays loaded, and nothing a model says steers."""

import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_tiny_llama, pin, prompt_completion_rows, write_jsonl
from tests.executor.finished_runs import finish
from vramplan.executor.chat_session import Note, Session, inert
from vramplan.executor.chat_wire import Ask, ChatRequest, Turn
from vramplan.executor.finished import finished_run
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Bottleneck, Full, Lora, Prefix, Qlora

PROMPT = "what comes after 3?"
train = pytest.mark.train
pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("world")
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows())
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data)}


def asked(run: int | None) -> Ask:
    turns = (Turn(role="user", content=PROMPT),)
    return Ask(run=run, turns=turns, template=False, max_new_tokens=12, temperature=0.0, seed=0)


def answers(folders: list[Path], order: list[int | None]) -> Iterator[str]:
    """What one loaded base answers, its adapters switched in this order."""
    from vramplan.executor.chat_model import ChatModel
    from vramplan.executor.process import Stop

    said: list[Any] = []
    model = ChatModel(ChatRequest(runs=tuple(finished_run(str(each)).tuned for each in folders)), lambda what: None)
    loaded = {name: p.data_ptr() for name, p in model.model.named_parameters()}
    for run in order:
        said.clear()
        model.answer(asked(run), said.append, Stop())
        yield "".join(piece.text for piece in said)
    assert {name: p.data_ptr() for name, p in model.model.named_parameters()} == loaded


@train
@pytest.mark.parametrize(
    "method",
    [Lora(r=8), Qlora(r=8), Bottleneck(target_modules=("o_proj", "down_proj")), Prefix(num_virtual_tokens=4)],
    ids=lambda method: method.kind,
)
def test_three_adapters_switched_live_answer_as_each_alone(method: Any, world: dict[str, Any], tmp_path: Path) -> None:
    folders = [finish(tmp_path / f"run.{seed}", world["model_path"], method, seed=seed) for seed in (1, 2, 3)]
    alone = [next(answers([folder], [0])) for folder in folders]
    base = next(answers([folders[0]], [None]))
    assert len({*alone, base}) == 4
    order: list[int | None] = [2, 0, None, 1, 2, None, 0]
    expected = [base if run is None else alone[run] for run in order]
    assert list(answers(folders, order)) == expected


@train
def test_the_command_switches_between_prompts_read_from_stdin(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [finish(tmp_path / f"run.{seed}", method=Lora(r=8), seed=seed, **world) for seed in (1, 2)]
    expected = [next(answers([folder], [0])) for folder in folders]
    lines = f"{PROMPT}\n/use run.2\n{PROMPT}\n/use nobody\n/base\n\n{PROMPT}\n/quit\nnever asked\n"
    monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    capsys.readouterr()
    code = run_command(["chat", *map(str, folders), "--max-new-tokens", "12", "--device", "cpu", "--json"])
    out, err = capsys.readouterr()
    assert code == ExitCode.OK, err
    printed = [json.loads(line) for line in out.splitlines()]
    assert [one["run"] for one in printed] == ["run.1", "run.2", "base"]
    assert [one["answer"] for one in printed[:2]] == expected
    assert all(one["prompt"] == PROMPT and one["new_tokens"] > 0 for one in printed)
    assert "no run nobody here" in err
    assert err.count("loading") == 1


@train
def test_an_answer_streams_without_spaces_and_never_breaks_a_character(world: dict[str, Any]) -> None:
    import torch
    from transformers import AutoTokenizer

    from vramplan.executor.chat_model import Pieces

    tokenizer, said = AutoTokenizer.from_pretrained(world["model_path"]), list[Any]()
    pieces = Pieces(tokenizer, said.append)
    pieces.put(torch.tensor([[5, 6, 7]]))
    text = "東京、\nпривет🙂ok"
    for token in tokenizer(text)["input_ids"]:  # a byte each
        pieces.put(torch.tensor([token]))
    pieces.end()
    assert "".join(piece.text for piece in said) == text
    assert [piece.text for piece in said][:4] == ["東", "京", "、", "\n"]
    assert pieces.tokens == len(tokenizer(text)["input_ids"])


@train
def test_ctrl_c_cuts_an_answer_short_and_the_chat_goes_on(world: dict[str, Any], tmp_path: Path) -> None:
    folder = finish(tmp_path / "run", method=Lora(r=8), **world)
    code = "import sys; from vramplan.planner.cli.main import run_command; sys.exit(run_command(sys.argv[1:]))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, "chat", str(folder), "--max-new-tokens", "100000", "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{PROMPT}\n")
    assert process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate("/base\n")
    assert out.endswith("\n")
    assert process.returncode == ExitCode.OK, err
    assert "stopped" in err
    assert err.index("stopped") < err.index("the base answers")


@train
@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ([Qlora(r=8)], "a base in fp32"),
        ([Prefix(num_virtual_tokens=4)], "method lora"),
        ([Full()], "trained the model's own weights"),
    ],
    ids=["another base precision", "another method", "a whole model"],
)
def test_runs_that_cannot_share_a_base_are_refused_before_anything_is_loaded(
    others: list[Any], reason: str, world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [
        finish(tmp_path / f"run{n}", world["model_path"], method) for n, method in enumerate([Lora(r=8), *others])
    ]
    capsys.readouterr()
    assert run_command(["chat", *map(str, folders)]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert reason in err
    assert len(err.splitlines()) == 2


def session(**options: Any) -> Session:
    return Session(("first", "second"), **{"template": True, "has_base": True, **options})


def test_a_conversation_is_kept_until_somebody_else_answers() -> None:
    chat = session()
    chat.typed("one\n")
    chat.answered("1")
    asked = chat.typed("two\n")
    assert isinstance(asked, Ask)
    assert [(turn.role, turn.content) for turn in asked.turns] == [("user", "one"), ("assistant", "1"), ("user", "two")]
    chat.typed("/use second")
    asked = chat.typed("three\n")
    assert isinstance(asked, Ask)
    assert (asked.run, [turn.content for turn in asked.turns]) == (1, ["three"])


def test_without_a_template_every_prompt_stands_alone() -> None:
    chat = session(template=False)
    chat.typed("one\n")
    chat.answered("1")
    asked = chat.typed("two\n")
    assert isinstance(asked, Ask)
    assert [turn.content for turn in asked.turns] == ["two"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/uze first", "did you mean /use?"),
        ("/use frist", "did you mean first?"),
        ("/base", "the base answers"),
        ("/names", "first\nsecond\nbase"),
        ("/\x1b[2J", "\\x1b[2J"),
    ],
)
def test_a_command_is_answered_in_words(line: str, said: str) -> None:
    note = session().typed(line)
    assert isinstance(note, Note)
    assert said in note.text
    assert "\x1b" not in note.text


def test_two_slashes_begin_a_prompt_with_one_and_quit_ends() -> None:
    asked = session().typed("//etc/passwd\n")
    assert isinstance(asked, Ask)
    assert asked.turns[-1].content == "/etc/passwd"
    assert session().typed("/quit\n") == "quit"


def test_a_whole_model_has_no_base_to_show() -> None:
    chat = session(has_base=False)
    note = chat.typed("/base")
    assert isinstance(note, Note)
    assert "no base" in note.text
    assert chat.run == 0


def test_escapes_in_an_answer_are_written_out_and_its_lines_kept() -> None:
    assert inert("a\nb\t\x1b]0;title\x07\u202e\r") == "a\nb\t\\x1b]0;title\\x07\\u202e\\r"
