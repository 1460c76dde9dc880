"""The longest row of a training file, in the model's own tokens."""

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.fakes import make_device, make_model_spec
from vramplan.planner.adapters import lengths as counting
from vramplan.planner.adapters.datasets import read_data_file, read_rows
from vramplan.planner.adapters.lengths import measure_rows
from vramplan.planner.adapters.tokenizer_files import find_tokenizer
from vramplan.planner.cli.data_text import data_lines, data_object
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.subject import Subject, look_up
from vramplan.planner.errors import BadDataError
from vramplan.planner.lengths import histogram_of
from vramplan.planner.model_spec import Provenance
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


def measured(rows: Rows, folder: Path, **options: Any) -> RowLengths:
    files = find_tokenizer(make_model_spec(provenance=provenance(folder)))
    return measure_rows(rows, files, **options)


def provenance(folder: Path) -> Provenance:
    return Provenance(source="folder", location=str(folder), parameters_basis="counted by hand")


def longest(rows: Rows, folder: Path) -> int:
    lengths = measured(rows, folder)
    assert lengths.estimated_because is None
    return lengths.longest_row


def test_the_longest_text_is_counted_with_its_start_and_end(folder: Path) -> None:
    # <start> one two three </s>
    assert longest(write(folder, {"text": "one"}, {"text": "one two three"}), folder) == 5


def test_an_end_that_is_there_already_is_not_added_again(folder: Path) -> None:
    assert longest(write(folder, {"text": "one two </s>"}), folder) == 4


def test_a_prompt_and_its_completion_are_one_row(folder: Path) -> None:
    # <start> one two three four </s>
    assert longest(write(folder, {"prompt": "one two ", "completion": "three four"}), folder) == 6


TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }} {{ message['content'] }} {% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
TALK = {"messages": [{"role": "user", "content": "one two"}, {"role": "assistant", "content": "three"}]}


def test_a_conversation_is_written_by_the_chat_template(folder: Path) -> None:
    pytest.importorskip("jinja2")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    lengths = measured(write(folder, TALK), folder)
    # user one two assistant three; after "user one two assistant": three
    assert (lengths.longest_row, lengths.longest_completion) == (5, 1)
    assert lengths.example == ("user one two assistant", " three ")


def test_a_conversation_without_a_template_is_refused_and_one_can_be_given(folder: Path) -> None:
    pytest.importorskip("jinja2")
    with pytest.raises(BadDataError, match="no chat template") as refused:
        measured(write(folder, TALK), folder)
    assert "--chat-template FILE" in str(refused.value.remedy)
    assert measured(write(folder, TALK), folder, chat_template=TEMPLATE).longest_row == 5


def test_a_command_measures_rows_under_the_template_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[str | None] = []

    def measure(*_: Any, chat_template: str | None, **__: Any) -> RowLengths:
        given.append(chat_template)
        return RowLengths(longest_row=9)

    monkeypatch.setattr("vramplan.planner.adapters.lengths.measure_rows", measure)
    (tmp_path / "own.jinja").write_text(TEMPLATE)
    place = ["--device", "RTX 4090", "--data", str(write(tmp_path, TALK).path)]
    for more in ([], ["--chat-template", str(tmp_path / "own.jinja")]):
        look_up(build_parser("estimate").parse_all(["estimate", "meta-llama/Llama-3.1-8B", *place, *more]))
    assert given == [None, TEMPLATE]


def test_a_template_that_fails_names_the_row_and_reaches_nothing_outside(folder: Path) -> None:
    pytest.importorskip("jinja2")
    for bad in ("{{ raise_exception('no') }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"):
        with pytest.raises(BadDataError, match=r"row 1 of .*data\.jsonl"):
            measured(write(folder, TALK), folder, chat_template=bad)


def test_rows_of_other_tasks_are_what_the_tokenizer_makes_of_them(folder: Path) -> None:
    rows = [{"text": "one two", "label": "a"}, {"text": "one", "label": "b"}]
    lengths = measured(write(folder, *rows, task="classification"), folder)
    assert (lengths.longest_row, lengths.longest_completion, lengths.quantiles) == (3, None, (2,) * 10 + (3,))
    assert lengths.example == ("one two", "a")
    lengths = measured(write(folder, {"input": "one", "target": "one two three"}, task="seq2seq"), folder)
    assert (lengths.longest_row, lengths.longest_target, lengths.longest_completion) == (2, 4, None)
    assert lengths.example == ("one", "one two three")


def test_without_a_tokenizer_lengths_are_guessed_from_bytes_and_said_to_be(folder: Path) -> None:
    rows = write(folder, {"text": "x" * 100}, {"text": "é" * 100})
    for damage in ((folder / "tokenizer.json").write_text, lambda _: (folder / "tokenizer.json").unlink()):
        damage("{}")
        lengths = measured(rows, folder)
        # 200 bytes of UTF-8: at two bytes a token 100, at five 40
        assert (lengths.longest_row, lengths.shortest_guess) == (100, 40)
        assert lengths.estimated_because is not None
        assert lengths.estimated_because.startswith("2 to 5 bytes a token, as ")


def test_rows_that_cannot_be_used_are_told_where_their_lengths_are(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text('{"prompt": "a", "completion": ""}\n{"prompt": "a", "completion": "b"}\n')
    data = read_data_file(path, skip_bad_rows=True)
    model = make_model_spec(provenance=provenance(tmp_path))
    subject = Subject(model, None, "", False, data, measure_rows(data.rows, find_tokenizer(model)))
    line = " ".join(data_lines(subject, 4, completion_only=False, width=160)[0].split())
    assert line.startswith(f"data 1 row (1 left out, the first: {path}, row 1: `completion` is empty): half up to 2")


def about_data(folder: Path, rows: str, *, completion_only: bool) -> tuple[str, dict[str, Any] | None]:
    path = folder / "train.jsonl"
    path.write_text(rows)
    data = read_data_file(path)
    model = make_model_spec(provenance=provenance(folder))
    subject = Subject(model, None, "", False, data, measure_rows(data.rows, find_tokenizer(model)))
    lines = data_lines(subject, 4, completion_only=completion_only, width=160)
    return "\n".join(lines), data_object(subject, 4)


def test_the_first_row_is_shown_with_what_carries_loss_marked_and_nothing_in_it_acts(folder: Path) -> None:
    rows = '{"prompt": "one two\\n", "completion": "three\\u001b[31m"}\n'
    for completion_only, marked in (
        (True, "one two\\n«three\\x1b[31m</s>»"),
        (False, "«one two\\nthree\\x1b[31m</s>»"),
    ):
        text, _ = about_data(folder, rows, completion_only=completion_only)
        assert f"row 1    {marked}  (between" in text
    assert "row 1    «one</s>»" in about_data(folder, '{"text": "one"}\n', completion_only=True)[0]


def test_the_lengths_are_json_values_too(folder: Path) -> None:
    _, found = about_data(folder, '{"text": "one"}\n{"text": "one two three four"}\n', completion_only=True)
    # <start> one </s>; <start> one two three four </s>, of which 4 tokens stay
    assert found is not None
    assert (found["num_rows"], found["histogram"]["lengths"], found["histogram"]["rows"]) == (2, [3, 6], [1, 1])
    assert found["at"]["lost_tokens"] == 2
    assert found["percentiles"]["p99"] == 6


def test_the_longest_completion_is_what_follows_the_prompt(folder: Path) -> None:
    rows = [{"prompt": "one two three ", "completion": "four"}, {"prompt": "one ", "completion": "two three"}]
    lengths = measured(write(folder, *rows), folder)
    # <start> one two three four </s>; two three </s>
    assert (lengths.longest_row, lengths.longest_completion, lengths.quantiles) == (6, 3, (5,) * 10 + (6,))
    assert lengths.example == ("one two three ", "four</s>")
    assert measured(write(folder, {"text": "one"}), folder).longest_completion is None


def test_rows_are_counted_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write(folder, {"text": "one two"})
    first = measured(rows, folder, sha256="a" * 64)
    monkeypatch.setattr(counting, "_measured", lambda *_: pytest.fail("counted again"))
    assert measured(rows, folder, sha256="a" * 64) == first
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(pytest.fail.Exception):
        measured(rows, folder, sha256="a" * 64)


def test_of_very_large_data_a_sample_is_counted_and_the_rows_with_the_most_bytes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "SAMPLE_BYTES", 400)
    monkeypatch.setattr(counting, "LONGEST_ROWS", 1)
    rows = write(folder, *({"text": "one two"} for _ in range(200)), {"text": "one two three four one two"})
    lengths = measured(rows, folder)
    assert lengths.histogram is not None
    assert lengths.histogram.sampled_of == 201
    assert lengths.histogram.num_rows < 201
    assert lengths.longest_row == 8  # <start>, six words, </s>


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60), st.integers(2, 32))
def test_packing_is_best_fit_longest_first(lengths: list[int], sequence_length: int) -> None:
    room: list[int] = []
    for length in sorted((min(each, sequence_length) for each in lengths), reverse=True):
        fitting = [bin for bin in range(len(room)) if room[bin] >= length]
        if fitting:
            room[min(fitting, key=lambda bin: room[bin])] -= length
        else:
            room.append(sequence_length - length)
    assert histogram_of(lengths).packing_gain(sequence_length) == len(lengths) / len(room)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 12))
def test_padding_is_the_mean_over_all_batches(lengths: list[int], micro_batch: int, sequence_length: int) -> None:
    cut = [min(each, sequence_length) for each in lengths]
    batches = list(product(cut, repeat=micro_batch))
    places = sum(micro_batch * max(batch) for batch in batches)
    share = 1 - sum(map(sum, batches)) / places
    assert histogram_of(lengths).padding_share(micro_batch, sequence_length) == pytest.approx(share)


def option(name: str, rows: RowLengths, **asked: object) -> tuple[object, str]:
    answer = resolve(asked, make_model_spec(), make_device(), rows=rows)
    return next((option.value, option.origin) for option in answer.options if option.name == name)


def test_a_setup_is_priced_for_the_longest_row_and_never_beyond_what_was_asked() -> None:
    short, long = RowLengths(longest_row=37), RowLengths(longest_row=3000)
    assert option("sequence_length", short) == (37, "derived")
    assert option("sequence_length", short, sequence_length=512) == (37, "derived")
    assert option("sequence_length", long, sequence_length=512) == (512, "given")
    assert option("sequence_length", long) == (2048, "derived")  # the model's limit
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
