"""A folder that appears whole or not at all: filled under another name, then renamed."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vramplan.planner.errors import UsageError


@contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """An empty folder beside ``place`` to fill, put there at the end; removed when filling it failed.

    Raises:
        UsageError: something is at ``place`` already, or nothing can be written there.
    """
    place = place.absolute()
    if place.exists():
        raise UsageError(f"{place} exists already", remedy="choose another folder with -o, or remove it")
    filling = place.parent / f".{place.name}.{os.getpid()}"
    try:
        filling.mkdir(parents=True)
    except OSError as error:
        raise UsageError(f"cannot write {place}: {error.strerror}", remedy="choose another place with -o") from error
    try:
        yield filling
        filling.rename(place)
    finally:
        shutil.rmtree(filling, ignore_errors=True)
