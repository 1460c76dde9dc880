"""One run per folder: a lock that the operating system drops when its last holder dies, however it dies.

A run holds its own folder and the one it writes weights and checkpoints into, which another plan may name too.
"""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from vramplan.planner.errors import PreflightError, UnsupportedError

LOCK = "lock"
OUTPUT_LOCK = ".lock"


@contextmanager
def run_locks(run_folder: Path, output: Path | None) -> Iterator[tuple[int, ...]]:
    """Hold a run's folder and the output folder it writes into, made if it is not there; their file descriptors.

    Raises:
        PreflightError: another process holds one, or one cannot be written.
        UnsupportedError: this system has no ``flock``.
    """
    with ExitStack() as stack:
        held = [stack.enter_context(run_lock(run_folder))]
        if output is not None:
            try:
                output.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise PreflightError(
                    f"cannot make {output}: {error.strerror}", remedy="re-plan with another --output-dir"
                ) from error
            held.append(stack.enter_context(run_lock(output, OUTPUT_LOCK)))
        yield tuple(held)


@contextmanager
def run_lock(folder: Path, name: str = LOCK) -> Iterator[int]:
    """Hold a folder's lock; yields its file descriptor, which a child may inherit to hold it too.

    Raises:
        PreflightError: another process holds it, or the folder cannot be written.
        UnsupportedError: this system has no ``flock``.
    """
    try:
        import fcntl
    except ImportError as error:
        raise UnsupportedError("running a plan needs Linux", remedy="run it on Linux or inside WSL2") from error
    try:
        file = (folder / name).open("a+", encoding="utf-8")
    except OSError as error:
        raise PreflightError(
            f"cannot write into {folder}: {error.strerror}", remedy="use a folder of your own"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise PreflightError(
                f"another run is using {folder} (process {holder})", remedy="wait for it, or stop it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
