"""The longest row of a training file, in the model's own tokens."""

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.fakes import make_device, make_model_spec
from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.adapters.lengths import measure_rows
from vramplan.planner.resolve import resolve
from vramplan.planner.rows import Rows
from vramplan.planner.workload import RowLengths, Task

WORDS = ["<start>", "</s>", "<unk>", "one", "two", "three", "four"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of whole words that starts every text with <start>, and is saved with padding switched on."""
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.add_special_tokens(["<start>", "</s>"])
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="<start> $A", special_tokens=[("<start>", 0)])
    tokenizer.enable_padding(length=64)
    tokenizer.enable_truncation(max_length=2)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "</s>"}}))
    return tmp_path


def write(folder: Path, *rows: dict[str, object], task: Task = "causal-lm") -> Rows:
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n\n" for row in rows))
    return read_rows(path, task)


def longest(rows: Rows, folder: Path) -> int:
    lengths = measure_rows(rows, folder)
    assert lengths is not None
    return lengths.longest_row


def test_the_longest_text_is_counted_with_its_start_and_end(folder: Path) -> None:
    # <start> one two three </s>
    assert longest(write(folder, {"text": "one"}, {"text": "one two three"}), folder) == 5


def test_an_end_that_is_there_already_is_not_added_again(folder: Path) -> None:
    assert longest(write(folder, {"text": "one two </s>"}), folder) == 4


def test_a_prompt_and_its_completion_are_one_row(folder: Path) -> None:
    # <start> one two three four </s>
    assert longest(write(folder, {"prompt": "one two ", "completion": "three four"}), folder) == 6


def test_a_conversation_cannot_be_measured(folder: Path) -> None:
    messages = [{"role": "assistant", "content": "one"}]
    assert measure_rows(write(folder, {"messages": messages}), folder) is None


def test_rows_of_other_tasks_are_what_the_tokenizer_makes_of_them(folder: Path) -> None:
    rows = [{"text": "one two", "label": "a"}, {"text": "one", "label": "b"}]
    lengths = measure_rows(write(folder, *rows, task="classification"), folder)
    assert lengths == RowLengths(longest_row=3, quantiles=(2,) * 10 + (3,))
    lengths = measure_rows(write(folder, {"input": "one", "target": "one two three"}, task="seq2seq"), folder)
    assert lengths == RowLengths(longest_row=2, longest_target=4, quantiles=(2,) * 11)


def test_a_model_without_a_tokenizer_measures_nothing(folder: Path) -> None:
    rows = write(folder, {"text": "one"})
    (folder / "tokenizer.json").write_text("{}")
    assert measure_rows(rows, folder) is None
    (folder / "tokenizer.json").unlink()
    assert measure_rows(rows, folder) is None


def test_the_longest_completion_is_what_follows_the_prompt(folder: Path) -> None:
    rows = [{"prompt": "one two three ", "completion": "four"}, {"prompt": "one ", "completion": "two three"}]
    lengths = measure_rows(write(folder, *rows), folder)
    # <start> one two three four </s>; two three </s>
    assert lengths == RowLengths(longest_row=6, longest_completion=3, quantiles=(5,) * 10 + (6,))
    assert measure_rows(write(folder, {"text": "one"}), folder) == RowLengths(longest_row=3, quantiles=(3,) * 11)


def option(name: str, rows: RowLengths, **given: object) -> tuple[object, str]:
    answer = resolve(given, make_model_spec(), make_device(), rows=rows)
    return next((option.value, option.origin) for option in answer.options if option.name == name)


def test_a_setup_is_priced_for_the_longest_row_and_never_beyond_what_was_asked() -> None:
    short, long = RowLengths(longest_row=37), RowLengths(longest_row=3000)
    assert option("sequence_length", short) == (37, "derived")
    assert option("sequence_length", short, sequence_length=512) == (37, "derived")
    assert option("sequence_length", long, sequence_length=512) == (512, "given")
    assert option("sequence_length", long) == (1024, "default")
    assert option("sequence_length", short, packing=True) == (1024, "default")


def test_loss_on_completions_alone_is_priced_for_the_longest_completion() -> None:
    rows = RowLengths(longest_row=41, longest_completion=10)
    assert option("valid_labels", rows) == (0.25, "derived")
    assert option("valid_labels", rows, valid_labels=0.5) == (0.5, "given")
    assert option("valid_labels", rows, completion_only=False) == (1.0, "default")
    assert option("valid_labels", RowLengths(longest_row=41, longest_completion=40)) == (1.0, "default")


def test_rows_of_several_lengths_in_one_micro_batch_are_padded() -> None:
    varied, equal = RowLengths(longest_row=90, quantiles=(12, 40, 90)), RowLengths(longest_row=90, quantiles=(90, 90))
    assert option("padding", varied, micro_batch=4) == ("right", "derived")
    assert option("padding", varied, micro_batch=4, padding="none") == ("none", "given")
    assert option("padding", varied, micro_batch=1) == ("none", "default")
    assert option("padding", equal, micro_batch=4) == ("none", "default")
    assert option("padding", RowLengths(longest_row=900, quantiles=(512, 900)), micro_batch=4, sequence_length=512) == (
        "none",
        "default",
    )
