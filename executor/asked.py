"""What whoever watches asks of a run that trains: one word a line on the worker's standard input.

checkpoint   save after this step
pause        save after this step, then wait
resume       go on

The words are read between steps and in their order, by the first rank alone; the others are told what it heard
(executor/ranks.py), so all of them act at the same step. The end of the stream says that whoever asked is gone.
"""

import os
import select
from typing import Literal

Word = Literal["checkpoint", "pause", "resume"]
READ_BYTES = 4096


class Asked:
    """What has been asked and not yet done.

    Args:
        stream: the descriptor that the words come from; None: nobody asks.
    """

    def __init__(self, stream: int | None = None) -> None:
        self.checkpoint = False
        self.pause = False
        self.resume = False
        """Also where another pause has been asked for since."""
        self.gone = False
        """The stream has ended."""
        self._stream = stream
        self._begun = b""

    @classmethod
    def of_stdin(cls) -> "Asked":
        """Keep the real stdin for this: a library that would ask a person something finds an empty one."""
        try:
            stream = os.dup(0)
        except OSError:  # it was closed
            return cls()
        empty = os.open(os.devnull, os.O_RDONLY)
        os.dup2(empty, 0)
        os.close(empty)
        return cls(stream)

    def read(self, wait_seconds: float = 0.0) -> None:
        """Take in what has been said since, waiting at most this long for the first word of it."""
        while self._stream is not None and select.select([self._stream], [], [], wait_seconds)[0]:
            wait_seconds = 0.0
            heard = self._hear(self._stream)
            if not heard:
                os.close(self._stream)
                self._stream, self.gone = None, True
                return
            *words, self._begun = (self._begun + heard).split(b"\n")
            for word in words:
                self._take(word)

    @staticmethod
    def _hear(stream: int) -> bytes:
        try:
            return os.read(stream, READ_BYTES)
        except OSError:  # a terminal that is not ours any more
            return b""

    def _take(self, word: bytes) -> None:
        if word == b"checkpoint":
            self.checkpoint = True
        elif word in (b"pause", b"resume"):
            self.pause = word == b"pause"
            self.resume = self.resume or word == b"resume"
