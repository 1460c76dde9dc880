"""Checkpoints that are whole or refused: sealed when written, checked before they are used. No torch here.

A checkpoint is written under ``.saving``, every file of it hashed and flushed, the seal (``complete.json``) written
last, and the folder renamed to ``checkpoint-STEP``. One that has no seal is torn; one whose files are not exactly the
sealed ones was edited. Both are refused by name, and the one before is used.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from vramplan.planner.errors import RunError
from vramplan.planner.report import RunReport
from vramplan.planner.values import Value

SEAL = "complete.json"
SAVING = ".saving"
PREFIX = "checkpoint-"
MAX_SEAL_BYTES = 64 * 2**20
"""A seal is some tens of KiB: a line a file, and a report."""
_STEP = re.compile(rf"{PREFIX}[0-9]{{1,15}}")


class SealedFile(Value):
    """One file of a checkpoint as it was written."""

    size_bytes: int
    sha256: str


class Seal(Value):
    """What makes a checkpoint complete."""

    plan_fingerprint: str
    step: int
    files: dict[str, SealedFile]
    so_far: RunReport
    """The run's evidence up to here: what a resumed run continues to tell."""


class Newest(NamedTuple):
    """What ``newest_complete`` found: no folder where none is complete."""

    folder: Path | None
    seal: Seal | None
    refused: tuple[str, ...]


def seal(folder: Path, so_far: RunReport, step: int) -> Path:
    """Seal a written checkpoint under ``.saving`` and put it in its place; its final folder."""
    files = {name: _sealed(folder / name) for name in _names(folder)}
    sealed = Seal(plan_fingerprint=so_far.plan_fingerprint, step=step, files=files, so_far=so_far)
    with (folder / SEAL).open("w", encoding="utf-8") as file:
        file.write(sealed.model_dump_json(indent=1))
        file.flush()
        os.fsync(file.fileno())
    place = folder.parent.parent / f"{PREFIX}{step}"
    shutil.rmtree(place, ignore_errors=True)  # torn or edited, else this run would have gone on from it
    folder.rename(place)
    _flush_folder(place.parent)
    return place


def checked(folder: Path, fingerprint: str) -> Seal:
    """The seal of a checkpoint that is complete, unedited and this plan's.

    Raises:
        RunError: it is torn, edited or another plan's.
    """
    found = read_seal(folder)
    if found.plan_fingerprint != fingerprint:
        raise RunError(f"{folder.name} belongs to plan {found.plan_fingerprint[:12]}, this is plan {fingerprint[:12]}")
    names = set(_names(folder))
    link = next((name for name in _links(folder)), None)
    if link is not None:
        raise RunError(f"{folder.name} was edited or damaged: {link} is a link, which no checkpoint of ours holds")
    for name in sorted(names ^ found.files.keys()):
        raise RunError(f"{folder.name} was edited or damaged: {name} {'was added' if name in names else 'is gone'}")
    for name, planned in found.files.items():
        if _sealed(folder / name) != planned:
            raise RunError(f"{folder.name} was edited or damaged: {name} is not as it was written")
    return found


def read_seal(folder: Path) -> Seal:
    """The seal of a checkpoint, its files not looked at.

    Raises:
        RunError: there is none, or it cannot be read.
    """
    try:
        with (folder / SEAL).open("rb") as file:
            return Seal.model_validate_json(file.read(MAX_SEAL_BYTES))
    except FileNotFoundError as error:
        raise RunError(f"{folder.name} is torn: it was never completed") from error
    except (OSError, ValidationError) as error:
        raise RunError(f"{folder.name} was edited or damaged: its seal cannot be read") from error


def newest_complete(output: Path, fingerprint: str) -> Newest:
    """The checkpoint a run goes on from, and why each newer one was refused."""
    refused: list[str] = []
    for folder in folders(output):
        try:
            return Newest(folder, checked(folder, fingerprint), tuple(refused))
        except RunError as error:
            refused.append(error.message)
    return Newest(None, None, tuple(refused))


def folders(output: Path) -> list[Path]:
    """Every folder that calls itself a checkpoint, the furthest step first."""
    found = [path for path in output.glob(f"{PREFIX}*") if _STEP.fullmatch(path.name) and path.is_dir()]
    found = [path for path in found if not path.is_symlink()]  # what is behind one is not ours to use or remove
    return sorted(found, key=step_of, reverse=True)


def prune(output: Path, keep: int, step: int) -> None:
    """Remove all but the ``keep`` newest sealed checkpoints up to this step.

    Those beyond it are not this run's: they were refused when it went on from an earlier one.
    """
    ours = [folder for folder in folders(output) if (folder / SEAL).exists() and step_of(folder) <= step]
    for folder in ours[max(1, keep) :]:
        # Without its seal first: a removal that is cut short leaves a torn checkpoint, never a damaged one.
        (folder / SEAL).unlink()
        shutil.rmtree(folder, ignore_errors=True)


def step_of(folder: Path) -> int:
    """The step a checkpoint's name tells."""
    return int(folder.name.removeprefix(PREFIX))


def remove_all(output: Path) -> None:
    """Remove every checkpoint of earlier runs: a person wants to start over."""
    shutil.rmtree(output / SAVING, ignore_errors=True)
    for folder in folders(output):
        shutil.rmtree(folder)


def _names(folder: Path) -> Iterator[str]:
    """Every file but the seal, relative to the folder."""
    for root, _, names in os.walk(folder):
        for name in sorted(names):
            relative = (Path(root) / name).relative_to(folder).as_posix()
            if relative != SEAL:
                yield relative


def _links(folder: Path) -> Iterator[str]:
    """Links among files and folders: a run writes none, and what they lead to is not under the seal."""
    for root, below, names in os.walk(folder):
        yield from (name for name in (*below, *names) if (Path(root) / name).is_symlink())


def _sealed(path: Path) -> SealedFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        size_bytes = file.tell()
        os.fsync(file.fileno())
    return SealedFile(size_bytes=size_bytes, sha256=digest)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
