"""A full disk: recognised under the names libraries give it, and waited for instead of died of."""

import errno
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from vramplan.planner.units import format_bytes

POLL_SECONDS = 2.0
_FULL = (
    "no space left on device",
    "disk quota exceeded",
    "file too large",
    "os error 28",
    "os error 27",
    "pytorchstreamwriter failed writing",
)
_FULL_ERRNO = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_disk_full(error: BaseException) -> bool:
    """ENOSPC, EDQUOT and EFBIG (``ulimit -f``), also inside safetensors' and torch's own exceptions."""
    if isinstance(error, OSError) and error.errno in _FULL_ERRNO:
        return True
    return isinstance(error, Exception) and any(mark in str(error).lower() for mark in _FULL)


def free_bytes(folder: Path) -> int:
    """Free bytes on the disk of a folder, or of its nearest parent that exists."""
    resolved = folder.absolute()
    return shutil.disk_usage(next(path for path in (resolved, *resolved.parents) if path.exists())).free


def wait_for_room(
    folder: Path,
    needed_bytes: int,
    stopped: Callable[[], bool],
    say: Callable[[str], None],
    at_most_seconds: float = float("inf"),
) -> bool:
    """Wait until there is room, saying so once a minute; False when the run was told to stop instead.

    Args:
        at_most_seconds: then it is worth another try: a quota shows in no free bytes.
    """
    began = time.monotonic()
    said: float | None = None
    while (free := free_bytes(folder)) < needed_bytes and time.monotonic() - began < at_most_seconds:
        if stopped():
            return False
        if said is None or time.monotonic() - said >= 60:
            said = time.monotonic()
            say(
                f"paused: no room to write into {folder}, {format_bytes(free)} free and {format_bytes(needed_bytes)} "
                "needed; free some space to go on"
            )
        time.sleep(POLL_SECONDS)
    return True
