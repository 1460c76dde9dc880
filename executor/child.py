"""One worker process: started, listened to, stopped, and put down when it has been silent for too long."""

import asyncio
import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence
from typing import IO, Any

GRACE_SECONDS = 120.0
"""How long a worker that was asked to stop may take to finish its step and save."""
LINE_BYTES = 2**24


class Child:
    """A process whose standard output is read line by line, and which is told words on its standard input.

    Args:
        command: what is started.
        environment: its environment, whole.
        log: where its standard error goes.
        locks: descriptors it inherits, and so holds as long as it lives.
        silence_seconds: without a line for this long it is hung. The clock stands still while the machine sleeps.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: IO[bytes],
        locks: tuple[int, ...],
        silence_seconds: float,
    ) -> None:
        self.exit_status: int | None = None
        self.hung = False
        self._waits = False
        self._pid: int | None = None
        self._silence_seconds = silence_seconds
        self._heard_at = 0.0
        self._over = threading.Event()
        self._ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        self._mouth: int | None = mouth
        # Its own session, so that Ctrl-C reaches it once, through us.
        self._options: dict[str, Any] = {
            "args": tuple(command),
            "stdin": self._ear,
            "stderr": log,
            "env": dict(environment),
            "start_new_session": True,
            "pass_fds": locks,
        }

    def lines(self) -> Generator[bytes]:
        """Start it and yield its lines until it ends; leaving early ends it."""
        process = subprocess.Popen(**self._options, stdout=subprocess.PIPE)
        assert process.stdout is not None
        self._begin(process.pid)
        try:
            for line in process.stdout:
                self._heard()
                yield line
            self.exit_status = process.wait()
        finally:
            if process.poll() is None:
                self.signal(signal.SIGTERM)
                try:
                    process.wait(GRACE_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            self._end()
            process.stdout.close()

    async def alines(self) -> AsyncGenerator[bytes]:
        """``lines`` for asyncio."""
        options = dict(self._options)
        process = await asyncio.create_subprocess_exec(
            *options.pop("args"), **options, stdout=asyncio.subprocess.PIPE, limit=LINE_BYTES
        )
        assert process.stdout is not None
        self._begin(process.pid)
        try:
            async for line in process.stdout:
                self._heard()
                yield line
            self.exit_status = await process.wait()
        finally:
            if process.returncode is None:
                self.signal(signal.SIGTERM)
                try:
                    await asyncio.wait_for(process.wait(), GRACE_SECONDS)
                except TimeoutError:
                    process.kill()
                    await process.wait()
            self._end()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    def tell(self, word: str) -> None:
        """Write it a line, if it is still there; before it is started, it finds the line then."""
        if self._mouth is not None:
            with contextlib.suppress(OSError):
                os.write(self._mouth, f"{word}\n".encode())

    def may_wait(self, waits: bool) -> None:
        """Whether its silence is in order: it was asked to wait and has said that it does."""
        self._waits = waits
        self._heard()

    def _begin(self, pid: int) -> None:
        self._pid = pid
        os.close(self._ear)
        self._heard()
        threading.Thread(target=self._watch, daemon=True).start()

    def _heard(self) -> None:
        self._heard_at = time.monotonic()

    def _watch(self) -> None:
        """A silent process prints its stacks, is asked to stop, is put down: one silence after the other."""
        steps = [signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL]
        looked, between = time.monotonic(), self._silence_seconds / 10
        while steps and not self._over.wait(between):
            if time.monotonic() - looked > self._silence_seconds / 2:  # this process was stopped and went on
                self._heard()
            looked = time.monotonic()
            if not self._waits and looked - self._heard_at >= self._silence_seconds:
                self.hung = True
                self.signal(steps.pop(0))
                self._heard()

    def _end(self) -> None:
        self._over.set()
        self._pid = None
        mouth, self._mouth = self._mouth, None
        if mouth is not None:
            os.close(mouth)
