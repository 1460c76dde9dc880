"""Training files of every format: what is in them is read, and whatever else a file holds ends in a row's number."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vramplan.planner.adapters.datasets import pin_data, read_data_file, read_rows
from vramplan.planner.errors import BadDataError, VramplanError
from vramplan.planner.workload import Task

FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


SCRAPS = ['{"text": "a"}', '{"text": ', "[1]", "text,label", '"a', "\0", "\ufeff", "{}", "nul"]


def put(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def texts(path: Path, **options: Any) -> list[str]:
    return [row["text"] for row in read_rows(path, **options).rows]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"text": "one"}\n\n{"text": "two"}'),
        ("a.txt", '{"text": "one"}\n{"text": "two"}\n'),
        ("a.json", '[{"text": "one"}, {"text": "two"}]'),
        ("a.json", '{"data": [{"text": "one"}, {"text": "two"}], "version": 1}'),
        ("a.json", '{"text": "one"}\n{"text": "two"}\n'),
        ("a.csv", "text,source\none,x\ntwo,y\n"),
        ("a.csv", "\ufeffsource;text\nx;one\ny;two\n"),
        ("a.tsv", "text\tsource\none\tx\ntwo\ty"),
    ],
)
def test_each_format_gives_the_same_rows(tmp_path: Path, name: str, content: str) -> None:
    assert texts(put(tmp_path, name, content)) == ["one", "two"]


def test_a_quoted_field_may_hold_delimiters_and_lines(tmp_path: Path) -> None:
    path = put(tmp_path, "a.csv", 'prompt,completion\n"one, two","three\nfour"\nfive,six\n')
    assert read_rows(path).rows == (
        {"prompt": "one, two", "completion": "three\nfour"},
        {"prompt": "five", "completion": "six"},
    )


def test_parquet_is_read_and_a_damaged_file_is_named(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["good", "bad", "fine"], "label": [2, 10, 2]}), path)
    found = read_data_file(path, "classification")
    assert (found.num_rows, found.planned.labels) == (3, ("2", "10"))
    put(tmp_path, "a.parquet", path.read_bytes()[:-20])
    with pytest.raises(BadDataError, match="is not whole Parquet"):
        read_rows(path)


def test_a_folder_is_read_without_its_held_out_files(tmp_path: Path) -> None:
    put(tmp_path, "data/train-00001.jsonl", '{"text": "two"}')
    put(tmp_path, "data/train-00000.csv", "text\none\n")
    put(tmp_path, "data/validation.jsonl", '{"text": "secret"}')
    put(tmp_path, "data/README.md", "no rows here")
    put(tmp_path, "data/load.py", "raise SystemExit")
    assert texts(tmp_path / "data") == ["one", "two"]
    before = pin_data(tmp_path / "data")
    put(tmp_path, "data/validation.jsonl", '{"text": "other"}')
    assert pin_data(tmp_path / "data") == before
    put(tmp_path, "data/train-00000.csv", "text\nother\n")
    assert pin_data(tmp_path / "data").sha256 != before.sha256
    put(tmp_path, "held/test.jsonl", '{"text": "secret"}')
    with pytest.raises(BadDataError, match="which are held out"):
        read_rows(tmp_path / "held")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '{"text": "one"}\n{"text": "tw', "row 2: not JSON"),
        ("a.jsonl", '{"text": "one"}\n{"text": "t\0wo"}', "row 2: not JSON"),
        ("a.jsonl", '{"text": "one"}\n{"text": "t\\u0000wo"}', "row 2: `text` holds a NUL character"),
        ("a.jsonl", '{"text": "one"}\n{"text": "\\ud800"}', "row 2: `text` holds half of a surrogate pair"),
        ("a.jsonl", b'{"text": "one"}\n{"text": "\xff"}', "row 2: not UTF-8 text"),
        ("a.jsonl", '{"text": "one"}\n{"text": ["two"]}', "row 2: `text` is a list, not a string"),
        ("a.jsonl", '{"text": "one"}\ntext,label\n', "row 2: not JSON"),
        ("a.jsonl", "", "holds no rows"),
        ("a.json", '[{"text": "one"}, {"te', "is not a whole JSON array"),
        ("a.json", "[]", "holds no rows"),
        ("a.json", '[{"text": "one"}, 7]', "row 2: a JSON int, not an object"),
        ("a.csv", "text,label\none,x\ntwo\n", "row 3: 1 fields, but the header names 2"),
        ("a.csv", b"text,label\none,\xe9\n", "row 2: not UTF-8 text"),
        ("a.csv", 'text,label\none,x\n"two,y\n', "row 3: not CSV"),
        ("a.csv", "text,text\none,two\n", "two columns named 'text'"),
        ("a.csv", "", "holds no rows"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_row(
    tmp_path: Path, name: str, content: str | bytes, says: str
) -> None:
    with pytest.raises(BadDataError) as caught:
        read_rows(put(tmp_path, name, content))
    assert says in caught.value.message
    assert caught.value.remedy


def test_bad_rows_are_left_out_on_request_and_listed(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"text": "one"}\n{"text": 2}\n[\n{"text": "four"}\n')
    rows = read_rows(path, skip_bad_rows=True)
    assert [row["text"] for row in rows.rows] == ["one", "four"]
    assert [(bad.number, bad.reason.partition(" (")[0]) for bad in rows.bad] == [
        (2, "`text` is a int, not a string"),
        (3, "not JSON"),
    ]
    with pytest.raises(BadDataError, match=r"row 2: .*; row 3: not JSON"):
        read_rows(path)
    with pytest.raises(BadDataError, match="no row is usable"):
        read_rows(put(tmp_path, "b.jsonl", "{\n[\n"), skip_bad_rows=True)


def test_a_row_of_a_million_characters_is_a_row(tmp_path: Path) -> None:
    long = "word " * 200_000
    assert texts(put(tmp_path, "a.jsonl", json.dumps({"text": long}))) == [long]
    assert texts(put(tmp_path, "a.csv", f"text\n{long}\n")) == [long]


@pytest.mark.parametrize(
    ("task", "row", "columns", "expected"),
    [
        ("classification", {"sentence": "a", "class": "x", "id": 1}, {}, {"text": "a", "label": "x"}),
        ("classification", {"a": "b", "c": True}, {"text": "a", "label": "c"}, {"text": "b", "label": "true"}),
        ("seq2seq", {"article": "a", "highlights": "b"}, {}, {"input": "a", "target": "b"}),
        ("causal-lm", {"question": "a", "answer": "b"}, {}, {"prompt": "a", "completion": "b"}),
    ],
)
def test_columns_are_found_by_the_names_datasets_give_them_or_as_a_person_names_them(
    tmp_path: Path, task: Task, row: dict[str, Any], columns: dict[str, str], expected: dict[str, str]
) -> None:
    path = put(tmp_path, "a.jsonl", json.dumps(row))
    assert read_rows(path, task, columns=columns).rows == (expected,)


def test_columns_that_could_each_be_meant_or_that_no_row_has_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path, "a.jsonl", '{"sentence": "a", "review": "b", "label": 1}')
    with pytest.raises(BadDataError, match="could each be the text"):
        read_rows(path, "classification", columns={"label": "label"})
    with pytest.raises(BadDataError, match="have no txt"):
        read_rows(path, "classification", columns={"txt": "sentence"})


@pytest.mark.parametrize(
    ("labels", "wanted", "classes"),
    [
        (["b", "a", "b"], None, ("a", "b")),
        ([10, 9, "10"], None, ("9", "10")),
        ([0, 2], 4, ("0", "1", "2", "3")),
        ([1.0, 5], None, ("1", "5")),
    ],
)
def test_classes_are_ordered_by_value_or_by_name(
    tmp_path: Path, labels: list[Any], wanted: int | None, classes: tuple[str, ...]
) -> None:
    path = put(tmp_path, "a.jsonl", "".join(json.dumps({"text": "x", "label": label}) + "\n" for label in labels))
    assert read_data_file(path, "classification", num_labels=wanted).planned.labels == classes


@pytest.mark.parametrize(
    ("labels", "wanted", "says"),
    [
        ([0.5, 1], None, "row 1: `label` is 0.5"),
        ([None, 1], None, "row 1: `label` is a NoneType"),
        (["a", "a"], None, "every row of .* is labelled 'a'"),
        (["a", "b"], 3, "has 2 classes"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    tmp_path: Path, labels: list[Any], wanted: int | None, says: str
) -> None:
    path = put(tmp_path, "a.jsonl", "".join(json.dumps({"text": "x", "label": label}) + "\n" for label in labels))
    with pytest.raises(BadDataError, match=says):
        read_data_file(path, "classification", num_labels=wanted)


@FUZZ
@given(
    content=st.one_of(
        st.binary(max_size=400),
        st.text(max_size=300).map(str.encode),
        st.lists(
            st.sampled_from(['{"text": "a"}', '{"text": ', "[1]", "text,label", '"a', "\0", "\ufeff", "{}", "nul"])
        ).map(lambda parts: "\n".join(parts).encode()),
    ),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a"]),
    task=st.sampled_from(["causal-lm", "classification", "seq2seq"]),
    skip=st.booleans(),
)
def test_whatever_a_file_holds_rows_come_out_or_our_own_error(
    tmp_path: Path, content: bytes, name: str, task: Task, skip: bool
) -> None:
    path = put(tmp_path, name, content)
    try:
        rows = read_rows(path, task, skip_bad_rows=skip)
        said = "rows"
    except VramplanError as error:
        rows, said = None, error.message
    assert said
    assert "\n" not in said
    assert rows is None or (rows.rows and (skip or not rows.bad))


@FUZZ
@given(
    rows=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
                "completion": st.text(
                    st.characters(exclude_categories=["Cs", "Zs", "Cc"]), min_size=1, max_size=20
                ).filter(str.strip),
            }
        ),
        min_size=1,
        max_size=8,
    ),
    cut=st.integers(min_value=0, max_value=400),
)
def test_every_format_keeps_every_row_and_a_cut_file_loses_none_silently(
    tmp_path: Path, rows: list[dict[str, str]], cut: int
) -> None:
    lines = put(tmp_path, "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    array = put(tmp_path, "a.json", json.dumps(rows, ensure_ascii=False))
    table = tmp_path / "a.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("prompt", "completion"), quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    for path in (lines, array, table):
        assert read_rows(path).rows == tuple(rows)
    whole = lines.read_bytes()
    torn = put(tmp_path, "torn.jsonl", whole[: max(1, len(whole) - cut)])
    left = torn.read_bytes().count(b"\n")
    try:
        found = read_rows(torn, skip_bad_rows=True)
    except BadDataError:
        assert left == 0
        return
    assert len(found.rows) + len(found.bad) == left + (not torn.read_bytes().endswith(b"\n"))
