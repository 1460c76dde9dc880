"""The process that holds the model of a chat: started, asked, listened to."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Self

from vramplan.executor.chat_wire import Answered, Ask, ChatRequest, Piece, Ready, Said, parse_said
from vramplan.executor.environment import worker_environment
from vramplan.executor.events import Failed, Progress
from vramplan.executor.finished import FinishedRun
from vramplan.executor.finished_child import WORKER, check_libraries
from vramplan.executor.last_words import last_words
from vramplan.planner.device import Device
from vramplan.planner.errors import RunError

LEAVING_SECONDS = 10.0


class ChatChild:
    """A context: the process lives inside it.

    Args:
        runs: whose adapters are loaded; the first one's folder keeps the log.
        say: told of progress.

    Raises:
        MissingExtraError: the training libraries are not installed.
    """

    def __init__(self, runs: list[FinishedRun], device: Device | None, say: Callable[[str], None]) -> None:
        check_libraries()
        self._request = ChatRequest(runs=tuple(run.tuned for run in runs))
        self._environment = worker_environment(runs[0].plan, device, os.environ)
        self._log_path: Path = runs[0].folder / "chat.log"
        self._say = say
        self._process: subprocess.Popen[str]
        self._log: IO[bytes]

    def __enter__(self) -> Self:
        self._log = self._log_path.open("wb")
        # Its own session, so that Ctrl-C reaches it once, through us.
        self._process = subprocess.Popen(
            [*WORKER, "chat", self._request.model_dump_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=self._environment,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if error[0] is not None:
            self._process.kill()
        try:
            self._process.wait(LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def wait_until_ready(self) -> Ready:
        """Return once everything is loaded.

        Raises:
            RunError: it could not be.
        """
        for said in self._heard():
            if isinstance(said, Ready):
                return said
        raise self._died()

    def answer(self, ask: Ask) -> Iterator[str | Answered]:
        """Ask, and yield the answer's pieces, then what it took.

        Raises:
            RunError: there is no answer; the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(ask.model_dump_json() + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._died() from error
        for said in self._heard():
            if isinstance(said, Piece):
                yield said.text
            elif isinstance(said, Answered):
                yield said
                return
        raise self._died()

    def stop(self) -> None:
        """Cut the answer short."""
        self._process.send_signal(signal.SIGINT)

    def _heard(self) -> Iterator[Said]:
        assert self._process.stdout is not None
        for line in iter(self._process.stdout.readline, ""):
            said = parse_said(line)
            if isinstance(said, Progress):
                self._say(said.what)
            elif isinstance(said, Failed):
                raise RunError(said.message, remedy=said.remedy)
            elif said is not None:
                yield said

    def _died(self) -> RunError:
        message, remedy = last_words(self._process.wait(), self._log_path)
        return RunError(message, remedy=remedy)
