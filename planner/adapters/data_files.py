"""Rows out of files, as they stand there: JSON lines, a JSON array, CSV or TSV, Parquet, or a folder of such.

Nothing here knows what a row should hold. What cannot be read as a row at all has a reason in its place. Parquet needs
pyarrow, which comes with the ``train`` extra; all else is the standard library.
"""

import csv
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from vramplan.planner.adapters.inside import leads_outside, outside_words
from vramplan.planner.errors import BadDataError, MissingExtraError

_OTHER_SPLIT = re.compile(r"(?:^|[^a-z])(?:test|testing|valid|validation|dev|eval|evaluation)(?:[^a-z]|$)")
_TRAIN_SPLIT = re.compile(r"(?:^|[^a-z])(?:train|training)(?:[^a-z]|$)")
MAX_LINE_BYTES = 2**28
"""Of one row in JSON lines, or one line of CSV: far beyond any model's context."""
MAX_JSON_BYTES = 2**32
"""Of a file that is one JSON array, which is read whole."""
_INNER = ("data", "train", "rows")
"""Keys under which a JSON object may hold its array of rows."""


class RawRow(NamedTuple):
    """A row as a file has it, or why there is none."""

    file: Path
    number: int
    value: Any
    reason: str | None = None


def raw_rows(path: Path) -> Iterator[RawRow]:
    """Every row of a file, or of all files of a folder in the order of their names.

    Raises:
        BadDataError: a file cannot be read, or nothing in it can be told to be a row.
        MissingExtraError: it is Parquet, and pyarrow is not installed.
    """
    for file in data_files(path):
        try:
            yield from _READERS.get(file.suffix.lower(), _json_lines)(file)
        except OSError as error:
            raise BadDataError(f"cannot read {file}: {error.strerror or error}", remedy="check the path") from error


def data_files(path: Path) -> tuple[Path, ...]:
    """The file itself, or the files of a folder that training rows are read from.

    A folder that is split keeps its training files alone: the others are held out, and must not be trained on.

    Raises:
        BadDataError: the folder holds no data file, or only those of other splits.
    """
    if not path.is_dir():
        if path.exists() and not path.is_file():
            raise BadDataError(
                f"{path} is a device or a pipe, which cannot be read twice", remedy="write the rows to a file"
            )
        return (path,)
    found = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in _READERS and file.is_file()]
    names = {file: file.relative_to(path).as_posix().lower() for file in found}
    visible = [file for file in found if not any(part.startswith(".") for part in file.relative_to(path).parts)]
    train = [file for file in visible if _TRAIN_SPLIT.search(names[file])]
    chosen = train or [file for file in visible if not _OTHER_SPLIT.search(names[file])]
    if not chosen:
        what = f"only {visible[0].name} and its like, which are held out" if visible else "no data file"
        raise BadDataError(f"{path} holds {what}", remedy=f"name one file: {', '.join(sorted(_READERS))}")
    for file in chosen:
        if leads_outside(path, file):
            raise BadDataError(
                f"{file.relative_to(path)} in {path} {outside_words(file)}",
                remedy="put the file itself there, or name it with --data",
            )
    return tuple(chosen)


def _json_lines(file: Path) -> Iterator[RawRow]:
    with file.open("rb") as lines:
        for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), b""), start=1):
            _check_line(file, number, len(line))
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _parsed(file, number, line)


def _check_line(file: Path, number: int, size: int) -> None:
    if size > MAX_LINE_BYTES:
        raise BadDataError(
            f"{file}, row {number}: the line has more than {MAX_LINE_BYTES // 2**20} MiB", remedy="cut the row up"
        )


def _parsed(file: Path, number: int, line: bytes) -> RawRow:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return RawRow(file, number, None, f"not UTF-8 text ({error.reason})")
    except (ValueError, RecursionError) as error:
        return RawRow(file, number, None, f"not JSON ({error})")
    return _object(file, number, row)


def _object(file: Path, number: int, row: Any) -> RawRow:
    if isinstance(row, dict):
        return RawRow(file, number, row)
    return RawRow(file, number, None, f"a JSON {type(row).__name__}, not an object")


def _json(file: Path) -> Iterator[RawRow]:
    """An array of rows, an object that holds one, or JSON lines under the wrong name."""
    if file.stat().st_size > MAX_JSON_BYTES:
        raise BadDataError(
            f"{file} is one JSON value of more than {MAX_JSON_BYTES // 2**30} GiB",
            remedy="write one JSON object a line, and call the file .jsonl",
        )
    raw = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        whole = json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise BadDataError(f"{file} is not UTF-8 text: {error.reason}", remedy="save it as UTF-8") from error
    except (ValueError, RecursionError) as error:
        if raw.lstrip().startswith(b"["):
            remedy = "it may be cut off; write a whole array, or one JSON object a line"
            raise BadDataError(f"{file} is not a whole JSON array: {error}", remedy=remedy) from error
        yield from _json_lines(file)
        return
    if isinstance(whole, dict):
        inner = [whole[key] for key in _INNER if isinstance(whole.get(key), list)]
        whole = inner[0] if inner else [whole]
    if not isinstance(whole, list):
        raise BadDataError(f"{file} holds a JSON {type(whole).__name__}, no rows", remedy="write an array of objects")
    for number, row in enumerate(whole, start=1):
        yield _object(file, number, row)


def _csv(file: Path) -> Iterator[RawRow]:
    """Rows under a header; the delimiter is the comma, semicolon or tab the header has most of."""
    csv.field_size_limit(sys.maxsize)  # the module's own is 128 KiB
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        first = lines.readline(MAX_LINE_BYTES + 1)
        lines.seek(0)
        delimiter = max(",;\t", key=first.count)
        reader = csv.reader(_bounded(file, lines), strict=True, delimiter=delimiter)
        header = _header(file, reader)
        while True:
            number = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield RawRow(file, number, None, f"not CSV ({error})")
                continue
            if fields:
                yield _record(file, number, header, fields)


def _bounded(file: Path, lines: TextIO) -> Iterator[str]:
    for number, line in enumerate(iter(lambda: lines.readline(MAX_LINE_BYTES + 1), ""), start=1):
        _check_line(file, number, len(line))
        yield line


def _header(file: Path, reader: Any) -> list[str]:
    try:
        header = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise BadDataError(f"{file}, row 1: not CSV ({error})", remedy="write the columns' names first") from error
    doubled = next((name for name in header if header.count(name) > 1), None)
    if doubled is not None:
        raise BadDataError(f"{file} has two columns named {doubled!r}", remedy="rename one of them")
    return header


def _record(file: Path, number: int, header: list[str], fields: list[str]) -> RawRow:
    if len(fields) != len(header):
        return RawRow(file, number, None, f"{len(fields)} fields, but the header names {len(header)}")
    if any("\udc80" <= letter <= "\udcff" for field in fields for letter in field):
        return RawRow(file, number, None, "not UTF-8 text")
    return RawRow(file, number, dict(zip(header, fields, strict=True)))


def _parquet(file: Path) -> Iterator[RawRow]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError(
            f"reading {file} needs pyarrow, which is not installed", remedy="pip install 'vramplan[train]'"
        ) from error
    number = 0
    try:
        with parquet.ParquetFile(file) as table:
            for batch in table.iter_batches():
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(file, number, row)
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        first = str(error).strip().partition("\n")[0][:200]
        raise BadDataError(
            f"{file} is not whole Parquet, after row {number}: {first}", remedy="write the file again"
        ) from error


_READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
"""Any other ending is read as JSON lines."""
