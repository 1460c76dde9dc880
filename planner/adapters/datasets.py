"""A training file as a plan pins it: its hash, its size, how many rows it has. Reading rows is the executor's part."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from vramplan.planner.errors import BadDataError
from vramplan.planner.plan import PlannedData


class DataFile(NamedTuple):
    """A file that was read once, from end to end."""

    planned: PlannedData
    num_rows: int
    """Lines that are not blank."""


def read_data_file(path: Path) -> DataFile:
    """Hash a JSON-lines file and count its rows, in one pass.

    Raises:
        BadDataError: the file cannot be read, holds no rows, or does not look like JSON lines.
    """
    digest = hashlib.sha256()
    size_bytes = num_rows = 0
    try:
        with path.open("rb") as file:
            for line in file:
                digest.update(line)
                size_bytes += len(line)
                if not line.strip():
                    continue
                num_rows += 1
                if num_rows == 1 and not line.lstrip(b"\xef\xbb\xbf \t").startswith(b"{"):
                    raise BadDataError(f"{path} is not JSON lines", remedy="give one JSON object a line")
    except OSError as error:
        raise BadDataError(f"cannot read {path}: {error.strerror or error}", remedy="check --data") from error
    if num_rows == 0:
        raise BadDataError(f"{path} holds no rows", remedy="give one JSON object a line")
    planned = PlannedData(path=str(path), sha256=digest.hexdigest(), size_bytes=size_bytes)
    return DataFile(planned=planned, num_rows=num_rows)
