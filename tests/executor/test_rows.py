"""Training files: what is usable is read, and what is not is named by its row."""

import json
from pathlib import Path
from typing import Any

import pytest

from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.errors import BadDataError


def written(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def chat(*messages: tuple[str, Any]) -> str:
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in messages]})


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ('{"text": "a"}', "text"),
        ('{"prompt": "a", "completion": "b"}', "prompt-completion"),
        ('{"prompt": "", "completion": "b"}', "prompt-completion"),
        (chat(("user", "a"), ("assistant", "b")), "messages"),
    ],
)
def test_each_kind_of_row_is_recognised(tmp_path: Path, line: str, kind: str) -> None:
    assert read_rows(written(tmp_path, line, "", line)).kind == kind
    assert len(read_rows(written(tmp_path, line, "", line)).rows) == 2


def test_keys_no_kind_knows_are_dropped(tmp_path: Path) -> None:
    rows = read_rows(written(tmp_path, '{"text": "a", "source": "somewhere", "id": 7}'))
    assert rows.rows == ({"text": "a"},)


def test_a_byte_order_mark_is_not_part_of_the_first_row(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n')
    assert read_rows(path).rows == ({"text": "a"},)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ("{", "row 2: not JSON"),
        ("[" * 100_000, "row 2: not JSON"),
        ("[1]", "row 2: a JSON list, not an object"),
        ('{"txt": "a"}', "row 2: none of the known keys"),
        ('{"text": "a", "prompt": "b"}', "row 2: keys of several kinds"),
        ('{"text": 1}', "row 2: `text` is a int, not a string"),
        ('{"text": ""}', "row 2: `text` is empty"),
        ('{"prompt": "a"}', "row 2: this is a prompt-completion row, but the rows above are text rows"),
    ],
)
def test_a_bad_row_is_named_with_its_reason(tmp_path: Path, second: str, says: str) -> None:
    with pytest.raises(BadDataError) as caught:
        read_rows(written(tmp_path, '{"text": "a"}', second))
    assert says in caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"prompt": "a"}', "`completion` is missing"),
        ('{"messages": []}', "not a list with messages"),
        ('{"messages": ["a"]}', "message 0 lacks"),
        (chat(("user", "a"), ("assistant", None)), "message 1 lacks"),
        (chat(("assistant", "a"), ("user", "b")), "the last message is from 'user'"),
    ],
)
def test_an_incomplete_row_is_refused(tmp_path: Path, line: str, says: str) -> None:
    with pytest.raises(BadDataError, match=says):
        read_rows(written(tmp_path, line))


def test_a_missing_or_empty_or_binary_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataError, match="No such file"):
        read_rows(tmp_path / "nowhere.jsonl")
    with pytest.raises(BadDataError, match="holds no rows"):
        read_rows(written(tmp_path, "", "  "))
    (tmp_path / "data.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadDataError, match="not UTF-8"):
        read_rows(tmp_path / "data.jsonl")
