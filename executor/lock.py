"""One run per folder: a lock that the operating system drops when its last holder dies, however it dies."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vramplan.planner.errors import PreflightError, UnsupportedError

LOCK = "lock"


@contextmanager
def run_lock(run_folder: Path) -> Iterator[int]:
    """Hold the folder's lock; yields its file descriptor, which a child may inherit to hold it too.

    Raises:
        PreflightError: another process holds it, or the folder cannot be written.
        UnsupportedError: this system has no ``flock``.
    """
    try:
        import fcntl
    except ImportError as error:
        raise UnsupportedError("running a plan needs Linux", remedy="run it on Linux or inside WSL2") from error
    try:
        file = (run_folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:
        raise PreflightError(
            f"cannot write into {run_folder}: {error.strerror}", remedy="move the plan to a folder of your own"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise PreflightError(
                f"another run is using {run_folder} (process {holder})", remedy="wait for it, or stop it"
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield file.fileno()
