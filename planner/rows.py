"""What a row of training data is, for each task, and what is wrong with one that is not.

    causal-lm        text; prompt + completion; messages
    classification   text + label
    seq2seq          input + target

A row is checked by itself. Its reason, when it is bad, is one line without the file's name or the row's number.
"""

from collections.abc import Mapping
from typing import Any, Literal

from vramplan.planner.errors import BadDataError
from vramplan.planner.values import Value
from vramplan.planner.workload import Task

RowKind = Literal["text", "prompt-completion", "messages", "labelled", "input-target"]
COLUMNS: dict[RowKind, tuple[str, ...]] = {
    "text": ("text",),
    "prompt-completion": ("prompt", "completion"),
    "messages": ("messages",),
    "labelled": ("text", "label"),
    "input-target": ("input", "target"),
}
KINDS: dict[Task, tuple[RowKind, ...]] = {
    "causal-lm": ("text", "prompt-completion", "messages"),
    "classification": ("labelled",),
    "seq2seq": ("input-target",),
}
OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "label": ("labels", "class", "category"),
    "text": ("sentence", "review", "content"),
    "completion": ("response", "answer"),
    "prompt": ("question",),
    "input": ("source", "document", "article", "dialogue", "prompt"),
    "target": ("summary", "highlights", "completion"),
    "messages": ("conversations",),
}
"""Names that datasets give these columns: one is used where the column is absent and no other of them is there."""
_MAY_BE_EMPTY = ("prompt",)


class BadRow(Value):
    """A row that cannot be used."""

    file: str
    number: int
    """Its line, or in JSON arrays and Parquet its place; counted from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, row {self.number}: {self.reason}"


class Rows(Value):
    """Every usable row of a training file, all of one kind, holding that kind's columns and nothing else."""

    path: str
    kind: RowKind
    rows: tuple[dict[str, Any], ...]
    bad: tuple[BadRow, ...] = ()
    """Rows that were left out on request."""


class BadRowReason(Exception):  # noqa: N818 - an outcome of a check, not a mistake of ours
    """Why a row cannot be used."""


def shapes(task: Task) -> str:
    """The columns a task's rows have, in words.

    >>> shapes("classification"), shapes("causal-lm")
    ('`text` and `label`', '`text`, `prompt` and `completion`, or `messages`')
    """
    words = [" and ".join(f"`{column}`" for column in COLUMNS[kind]) for kind in KINDS[task]]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])}, or {words[-1]}"


def check_columns(columns: Mapping[str, str], task: Task) -> None:
    """The columns a person named are ones the task's rows have.

    Raises:
        BadDataError: one is not.
    """
    known = {column for kind in KINDS[task] for column in COLUMNS[kind]}
    for column in columns:
        if column not in known:
            raise BadDataError(
                f"--columns {column}={columns[column]}: rows for {task} have no {column}",
                remedy=f"rows for {task} have {shapes(task)}",
            )


def kind_of(row: Mapping[str, Any], task: Task, columns: Mapping[str, str]) -> tuple[RowKind, dict[str, str]]:
    """Which of a task's kinds a row is, and what its columns are called in the file.

    Args:
        columns: names a person gave, by column.

    Raises:
        BadRowReason: none, or keys of several kinds.
    """
    present = [kind for kind in KINDS[task] if any(columns.get(name, name) in row for name in COLUMNS[kind])]
    if not present:
        present = [kind for kind in KINDS[task] if all(_found(row, name, columns) for name in COLUMNS[kind])]
    if len(present) > 1:
        raise BadRowReason(f"keys of several kinds ({', '.join(present)})")
    if not present:
        raise BadRowReason("none of the known keys")
    kind = present[0]
    return kind, {name: _found(row, name, columns) or columns.get(name, name) for name in COLUMNS[kind]}


def _found(row: Mapping[str, Any], name: str, columns: Mapping[str, str]) -> str | None:
    """What a column is called in a row; None where it is not there.

    Raises:
        BadRowReason: several names could be meant.
    """
    if name in columns:
        return columns[name] if columns[name] in row else None
    if name in row:
        return name
    others = [other for other in OTHER_NAMES.get(name, ()) if other in row and other not in columns.values()]
    if len(others) > 1:
        raise BadRowReason(f"`{'` and `'.join(others)}` could each be the {name}: name one with --columns {name}=...")
    return others[0] if others else None


def checked(row: Mapping[str, Any], kind: RowKind, names: Mapping[str, str]) -> dict[str, Any]:
    """The row with the columns of its kind alone.

    Args:
        names: what each column is called in the file.

    Raises:
        BadRowReason: a column is missing, empty, or of another type.
    """
    if kind == "messages":
        return {"messages": _messages(row.get(names["messages"]))}
    return {
        column: _label(row, name) if column == "label" else _text(row, name, may_be_empty=column in _MAY_BE_EMPTY)
        for column, name in names.items()
    }


def _text(row: Mapping[str, Any], name: str, *, may_be_empty: bool) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        what = "is missing" if name not in row else f"is a {type(value).__name__}, not a string"
        raise BadRowReason(f"`{name}` {what}")
    if not value.strip() and not may_be_empty:
        raise BadRowReason(f"`{name}` is empty")
    return _clean(value, f"`{name}`")


def _clean(value: str, what: str) -> str:
    if "\0" in value:
        raise BadRowReason(f"{what} holds a NUL character")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRowReason(f"{what} holds half of a surrogate pair, which is no text") from None
    return value


def _label(row: Mapping[str, Any], name: str) -> str:
    """A class by its name; a number or a truth value is its own name."""
    value = row.get(name)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        raise BadRowReason(f"`{name}` is {value}: a class is a name or a whole number, and regression is not trained")
    return _text(row, name, may_be_empty=False).strip()


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list) or not value:
        raise BadRowReason("`messages` is not a list with messages in it")
    messages = []
    for index, message in enumerate(value):
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not role or not isinstance(content, str):
            raise BadRowReason(f"message {index} lacks a `role` or `content` string")
        messages.append({"role": _clean(role, "a role"), "content": _clean(content, f"message {index}")})
    if messages[-1]["role"] != "assistant":
        raise BadRowReason(f"the last message is from {messages[-1]['role']!r}, not the assistant")
    return messages


def classes_of(rows: Rows, num_labels: int | None = None) -> tuple[str, ...]:
    """The classes of labelled rows, in the order of their ids: numbers by value, names by the alphabet.

    Args:
        num_labels: how many are wanted; with numbers from 0, some of them may have no row.

    Raises:
        BadDataError: there is one class alone, or not as many as are wanted.

    >>> classes_of(Rows(path="", kind="labelled", rows=({"label": "10"}, {"label": "9"}, {"label": "10"})))
    ('9', '10')
    """
    found = {str(row["label"]) for row in rows.rows}
    numbers = all(label.removeprefix("-").isdecimal() and label.isascii() for label in found)
    if numbers and num_labels is not None and all(0 <= int(label) < num_labels for label in found):
        return tuple(map(str, range(num_labels)))
    labels = tuple(sorted(found, key=lambda label: (int(label), label) if numbers else (0, label)))
    if len(labels) == 1:
        raise BadDataError(f"every row of {rows.path} is labelled {labels[0]!r}", remedy="give rows of two classes")
    if num_labels is not None and num_labels != len(labels):
        raise BadDataError(
            f"--num-labels {num_labels}: {rows.path} has {len(labels)} classes", remedy="leave --num-labels out"
        )
    return labels
