"""How long a person looks at nothing: a command in a terminal of its own, until a text is written to it."""

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from speed import Timing

PATIENCE_SECONDS = 60.0


def time_to_text(arguments: Sequence[str], text: str, size: tuple[int, int], environment: Mapping[str, str]) -> Timing:
    """From the start of a python process to the moment this text has come out of its terminal; then it is ended.

    Processor time is that of all its threads up to the same moment.

    Raises:
        TimeoutError: the text never came.
    """
    began = time.perf_counter()
    child, terminal = pty.fork()
    if child == 0:
        fcntl.ioctl(sys.stdin.fileno(), termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
        os.execve(sys.executable, [sys.executable, "-P", *arguments], {**environment, "TERM": "xterm-256color"})
    try:
        said = b""
        while text.encode() not in said:
            left = began + PATIENCE_SECONDS - time.perf_counter()
            if not select.select([terminal], [], [], max(0.0, left))[0]:
                raise TimeoutError(f"never written: {text!r}")
            said += os.read(terminal, 1 << 16)
        return Timing(time.perf_counter() - began, _cpu_seconds(child))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(terminal)


def _cpu_seconds(process: int) -> float:
    """Time on a processor, from the scheduler's own count in nanoseconds (Linux)."""
    counts = [path.read_text().split()[0] for path in Path("/proc", str(process), "task").glob("*/schedstat")]
    return sum(map(int, counts)) / 1e9
