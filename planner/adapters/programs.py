"""Find the memory program of a key: shipped with the package, cached from an earlier trace, or traced now.

Tracing runs in a child process, because it needs torch and the caller must stay light.
"""

import contextlib
import importlib.metadata
import importlib.resources
import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import platformdirs

from vramplan.planner.adapters.cancelling import check_wanted
from vramplan.planner.errors import NoProgramError
from vramplan.planner.programs.codec import FORMAT, load_program
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Program

TRACE_SECONDS = 600
"""A trace takes seconds; one that takes this long hangs."""
LISTEN_SECONDS = 0.25
"""Between two questions whether a trace is still wanted."""
CHILD = (sys.executable, "-P", "-m")
CHILD_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TRANSFORMERS_VERBOSITY": "error"}


class Found(NamedTuple):
    """A program and where it came from."""

    program: Program
    origin: Literal["shipped", "cached", "traced"]


def find_program(key: ProgramKey) -> Found:
    """The program of a key.

    Raises:
        NoProgramError: it does not ship, and cannot be traced here.
    """
    known = _known(key)
    if known is not None:
        return known
    text = _trace(key)
    keep_program(key, text)
    return Found(load_program(text), "traced")


def keep_program(key: ProgramKey, text: str) -> None:
    """Put a traced program into the cache."""
    path = _cache_path(key.digest())
    with contextlib.suppress(OSError):  # a cache that cannot be written costs the next trace, not this answer
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(text)
        temporary.replace(path)


def known_program(key: ProgramKey) -> Found:
    """The program of a key when it is here already: answers at once, never traces. For going through many models.

    Raises:
        NoProgramError: it neither ships nor was traced before.
    """
    known = _known(key)
    if known is None:
        raise NoProgramError(f"no memory program is here yet for {key.structure.model_type} with {key.mode.method}")
    return known


def _known(key: ProgramKey) -> Found | None:
    digest = key.digest()
    shipped = _shipped(digest)
    if shipped is not None:
        return Found(shipped, "shipped")
    try:
        program = load_program(_cache_path(digest).read_text())
    except (OSError, ValueError):
        return None  # absent, damaged, or of another format: traced afresh
    return None if newer_libraries(program) else Found(program, "cached")


def newer_libraries(program: Program) -> dict[str, str]:
    """Installed libraries whose version is not the one the program was traced with. One that is absent is no
    difference: nothing can run with it here."""
    differ = {}
    for name, traced in program.versions.items():
        installed = _installed(name)
        if installed is not None and installed.partition("+")[0] != traced.partition("+")[0]:
            differ[name] = installed
    return differ


@lru_cache
def _installed(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=256)
def _shipped(digest: str) -> Program | None:
    archive = _archive()
    try:
        return None if archive is None else load_program(archive.read(f"{digest}.json").decode())
    except KeyError:
        return None


@lru_cache(maxsize=1)
def _archive() -> zipfile.ZipFile | None:
    resource = importlib.resources.files("vramplan.planner.programs") / "programs.zip"
    return zipfile.ZipFile(str(resource)) if resource.is_file() else None


def shipped_digests() -> frozenset[str]:
    """Digests of the programs that ship."""
    archive = _archive()
    return frozenset() if archive is None else frozenset(name.removesuffix(".json") for name in archive.namelist())


def _cache_path(digest: str) -> Path:
    return Path(platformdirs.user_cache_dir("vramplan")) / "programs" / str(FORMAT) / f"{digest}.json"


def _trace(key: ProgramKey) -> str:
    """Trace in a child process; its stdout is the program."""
    name = f"{key.structure.model_type} with {key.mode.method}"
    need_torch(f"no memory program ships for {name} in this mode, and tracing one needs torch")
    print(f"tracing {name} once (a few seconds, then cached) ...", file=sys.stderr)  # noqa: T201 - narration
    return trace_child(name, [], json.dumps(key.model_dump(mode="json")))


def need_torch(why: str) -> None:
    """Refuse where tracing cannot work.

    Raises:
        NoProgramError: torch or transformers is not installed.
    """
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise NoProgramError(why, remedy="pip install 'vramplan[train]'")


def trace_child(name: str, arguments: list[str], request: str) -> str:
    """What ``python -m vramplan.planner.trace`` prints.

    Raises:
        NoProgramError: it failed, or took too long; the last line it wrote says why.
    """
    child = subprocess.Popen(
        [*CHILD, "vramplan.planner.trace", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | CHILD_ENVIRONMENT,
    )
    with child:
        try:
            output, errors = _heard(child, request)
        except subprocess.TimeoutExpired as hung:
            raise NoProgramError(
                f"{name} could not be traced within {TRACE_SECONDS} seconds",
                remedy="try again when the machine is idle",
            ) from hung
        finally:
            child.kill()  # does nothing to one that has ended
    if child.returncode != 0:
        reason = (errors.strip().splitlines() or ["no reason given"])[-1]
        raise NoProgramError(
            f"{name} could not be traced: {reason}",
            remedy="choose another method or setting; this combination has no memory program",
        )
    return output


def _heard(child: "subprocess.Popen[str]", request: str) -> tuple[str, str]:
    """What a child says until it ends, on stdout and stderr.

    Raises:
        subprocess.TimeoutExpired: it takes too long.
        Cancelled: nobody wants it any more.
    """
    began, unsent = time.monotonic(), request
    while True:
        try:
            return child.communicate(unsent or None, timeout=LISTEN_SECONDS)
        except subprocess.TimeoutExpired:
            unsent = ""  # what is not written yet is kept by the child's own handle
            check_wanted()
            if time.monotonic() - began > TRACE_SECONDS:
                raise
