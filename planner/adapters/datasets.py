"""Training data as a plan pins it (hash, size, classes) and as a run reads it: every row checked, bad ones named."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from vramplan.planner.adapters.data_files import RawRow, data_files, raw_rows
from vramplan.planner.errors import BadDataError
from vramplan.planner.plan import PlannedData
from vramplan.planner.rows import (
    BadRow,
    BadRowReason,
    RowKind,
    Rows,
    check_columns,
    checked,
    classes_of,
    kind_of,
    shapes,
)
from vramplan.planner.workload import Task

BLOCK_BYTES = 2**20
NAMED_ROWS = 5
"""Bad rows that an error names; the others are counted."""


class DataFile(NamedTuple):
    """A training file, or a folder of them, read from end to end."""

    planned: PlannedData
    rows: Rows

    num_rows: int
    """Usable rows that are not held out."""


def read_data_file(
    path: Path,
    task: Task = "causal-lm",
    *,
    columns: Mapping[str, str] | None = None,
    skip_bad_rows: bool = False,
    num_labels: int | None = None,
    eval_fraction: float = 0.0,
) -> DataFile:
    """Hash a file and check its rows.

    Args:
        num_labels: classes a person wants; rows need not have all of them where they are numbered from 0.

    Raises:
        BadDataError: see ``read_rows``; or the rows have other classes than were asked for, or one alone.
    """
    rows = read_rows(path, task, columns=columns, skip_bad_rows=skip_bad_rows)
    labels = classes_of(rows, num_labels) if rows.kind == "labelled" else ()
    held_out = int(eval_fraction * len(rows.rows))
    return DataFile(pin_data(path).model_copy(update={"labels": labels}), rows, len(rows.rows) - held_out)


def pin_data(path: Path) -> PlannedData:
    """The hash and size of a file; of a folder, the hash of its data files' names and hashes.

    Raises:
        BadDataError: it cannot be read.
    """
    files = data_files(path)
    hashes = {file: _sha256(file) for file in files}
    if path.is_dir():
        names = "".join(f"{file.relative_to(path).as_posix()}\0{hashes[file]}\n" for file in files)
        sha256 = hashlib.sha256(names.encode()).hexdigest()
    else:
        sha256 = hashes[path]
    return PlannedData(path=str(path), sha256=sha256, size_bytes=sum(file.stat().st_size for file in files))


def read_rows(
    path: Path, task: Task = "causal-lm", *, columns: Mapping[str, str] | None = None, skip_bad_rows: bool = False
) -> Rows:
    """Read and check all data at a path. Blank lines are skipped; keys no kind knows are dropped.

    Args:
        columns: what a column is called in the file, where a person said so.
        skip_bad_rows: leave bad rows out and list them; else the first few are an error.

    Raises:
        BadDataError: the file is missing, empty or unreadable, or a row is unusable; its number is named.
    """
    named = columns or {}
    check_columns(named, task)
    reader = _Reader(task, named)
    for raw in raw_rows(path):
        reader.add(raw)
    if reader.bad and (not skip_bad_rows or not reader.rows):
        raise _unusable(reader.bad, task, none_left=skip_bad_rows)
    if reader.kind is None:
        raise BadDataError(f"{path} holds no rows", remedy=f"give rows with {shapes(task)}")
    return Rows(path=str(path), kind=reader.kind, rows=tuple(reader.rows), bad=tuple(reader.bad))


class _Reader:
    """Rows so far; the first usable one says what kind they all are."""

    def __init__(self, task: Task, columns: Mapping[str, str]) -> None:
        self.task = task
        self.columns = columns
        self.kind: RowKind | None = None
        self.rows: list[dict[str, object]] = []
        self.bad: list[BadRow] = []

    def add(self, raw: RawRow) -> None:
        try:
            if raw.reason is not None:
                raise BadRowReason(raw.reason)
            found, names = kind_of(raw.value, self.task, self.columns)
            if self.kind is not None and found != self.kind:
                raise BadRowReason(f"this is a {found} row, but the rows above are {self.kind} rows")
            self.rows.append(checked(raw.value, found, names))
            self.kind = found
        except BadRowReason as reason:
            self.bad.append(BadRow(file=str(raw.file), number=raw.number, reason=str(reason)))


def _unusable(bad: list[BadRow], task: Task, *, none_left: bool) -> BadDataError:
    first, *rest = bad
    more = "".join(f"; row {row.number}: {row.reason}" for row in rest[: NAMED_ROWS - 1])
    if len(rest) >= NAMED_ROWS:
        more += f"; and {len(bad) - NAMED_ROWS:,} more bad rows"
    way_out = "" if none_left else ", or leave bad rows out with --skip-bad-rows"
    words = "no row is usable: " if none_left else ""
    return BadDataError(f"{words}{first}{more}", remedy=f"give every row {shapes(task)}{way_out}")


def _sha256(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise BadDataError(f"cannot read {file}: {error.strerror or error}", remedy="check the path") from error
