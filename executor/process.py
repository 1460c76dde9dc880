"""This process as the machine sees it: its memory, and a request to stop."""

import signal
from functools import cache
from types import FrameType
from typing import Any


class Interrupted(BaseException):
    """A signal arrived where there is no step to finish first. Not an Exception: no library may swallow it."""


class Stop:
    """A polite request to stop: the first signal asks, and outside the training loop or repeated it interrupts."""

    def __init__(self) -> None:
        self.requested = False
        """A signal was heard here, or by another rank (executor/ranks.py)."""
        self._heard = False
        self.patient = False
        """True while a training loop looks at ``requested`` after every step."""

    def listen(self) -> None:
        """SIGINT and SIGTERM become requests to stop."""
        signal.signal(signal.SIGINT, self._on_signal)
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        again, self._heard, self.requested = self._heard, True, True
        if again or not self.patient:
            raise Interrupted(signal.Signals(number).name)


def process_bytes(device_type: str) -> int:
    """Device memory in use on CUDA (every process's: total minus free); this process's resident set on a CPU."""
    if device_type == "cuda":
        import torch

        free_bytes, total_bytes = torch.cuda.mem_get_info()
        return int(total_bytes - free_bytes)
    return int(_this_process().memory_info().rss)


@cache
def _this_process() -> Any:
    import psutil

    return psutil.Process()
