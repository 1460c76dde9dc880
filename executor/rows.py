"""A training file, row by row: JSON lines with ``text``, ``prompt`` + ``completion`` or ``messages``.

Read and checked in full before torch is imported, so that a bad row costs a second and not a loaded model.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from vramplan.planner.errors import BadDataError
from vramplan.planner.values import Value

RowKind = Literal["text", "prompt-completion", "messages"]
COLUMNS: dict[RowKind, tuple[str, ...]] = {
    "text": ("text",),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
}
_SHAPES = "write `text`, `prompt` and `completion`, or `messages` in every row"


class Rows(Value):
    """Every row of one file, all of one kind, holding that kind's columns and nothing else."""

    path: str
    kind: RowKind
    rows: tuple[dict[str, Any], ...]


def read_rows(path: Path) -> Rows:
    """Read and check a whole JSON-lines file. Blank lines are skipped; keys no kind knows are dropped.

    Raises:
        BadDataError: the file is missing, not UTF-8, empty, or a row is unusable; the row's line number is named.
    """
    kind: RowKind | None = None
    rows: list[dict[str, Any]] = []
    for number, line in _lines(path):
        row = _parse(line, path, number)
        found = _kind(row, path, number)
        if kind is not None and found != kind:
            raise _bad(path, number, f"this is a {found} row, but the rows above are {kind} rows", _SHAPES)
        kind = found
        rows.append(_checked(row, found, path, number))
    if kind is None:
        raise BadDataError(f"{path} holds no rows", remedy="give a JSON-lines file, one object a line")
    return Rows(path=str(path), kind=kind, rows=tuple(rows))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise BadDataError(f"{path} is not UTF-8 text: {error.reason}", remedy="save it as UTF-8") from error
    except OSError as error:
        raise BadDataError(f"cannot read {path}: {error.strerror}", remedy="check the path") from error


def _parse(line: str, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise _bad(path, number, f"not JSON ({error})", "write one JSON object a line") from error
    if not isinstance(row, dict):
        raise _bad(path, number, f"a JSON {type(row).__name__}, not an object", _SHAPES)
    return row


def _kind(row: dict[str, Any], path: Path, number: int) -> RowKind:
    kinds: list[RowKind] = [kind for kind, columns in COLUMNS.items() if any(column in row for column in columns)]
    if len(kinds) == 1:
        return kinds[0]
    reason = "none of the known keys" if not kinds else f"keys of several kinds ({', '.join(kinds)})"
    raise _bad(path, number, reason, _SHAPES)


def _checked(row: dict[str, Any], kind: RowKind, path: Path, number: int) -> dict[str, Any]:
    if kind == "messages":
        return {"messages": _messages(row["messages"], path, number)}
    for column in COLUMNS[kind]:
        value = row.get(column)
        if not isinstance(value, str):
            what = "is missing" if column not in row else f"is a {type(value).__name__}, not a string"
            raise _bad(path, number, f"`{column}` {what}", _SHAPES)
        if not value and column != "prompt":
            raise _bad(path, number, f"`{column}` is empty", "drop the row or fill it in")
    return {column: row[column] for column in COLUMNS[kind]}


def _messages(value: Any, path: Path, number: int) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise _bad(path, number, "`messages` is not a list with messages in it", "write a list of role and content")
    messages = []
    for index, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not role or not isinstance(content, str):
            raise _bad(path, number, f"message {index} lacks a `role` or `content` string", "give each message both")
        messages.append({"role": role, "content": content})
    if messages[-1]["role"] != "assistant":
        reason = f"the last message is from {messages[-1]['role']!r}, not the assistant"
        raise _bad(path, number, reason, "end every conversation with the answer to learn")
    return messages


def _bad(path: Path, number: int, reason: str, remedy: str) -> BadDataError:
    return BadDataError(f"{path}, row {number}: {reason}", remedy=remedy)
