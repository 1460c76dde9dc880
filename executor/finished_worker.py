"""The child process of ``merge``, ``chat`` and ``evaluate``: ``python -P -m vramplan.executor.finished_worker TASK
REQUEST``, the request as JSON.

Its stdout is the wire: events (executor/events.py) and what the task itself says, one JSON object a line. Whatever a
library prints goes to stderr. Every process ends with a Finished or a Failed.
"""

import faulthandler
import signal
import sys
import time
import traceback
from collections.abc import Callable

from vramplan.executor.disk import is_disk_full
from vramplan.executor.events import Failed, Finished, Progress
from vramplan.executor.failure import first_line, is_out_of_memory
from vramplan.executor.process import Interrupted, Stop
from vramplan.executor.worker import wire
from vramplan.planner.errors import ExitCode, RunError, VramplanError
from vramplan.planner.values import Value

Send = Callable[[Value], None]


def main(argv: list[str] | None = None) -> int:
    """Carry out one task; the process's exit code."""
    task, request = sys.argv[1:3] if argv is None else argv
    faulthandler.register(signal.SIGUSR1)
    send = wire()
    stop = Stop()
    stop.listen()
    try:
        send(Finished(time=time.time(), report=TASKS[task](request, send, stop)))
        return ExitCode.OK
    except (Interrupted, KeyboardInterrupt):
        send(Failed(time=time.time(), message=f"{task} was stopped", interrupted=True))
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.INTERRUPTED
    except Exception as error:
        traceback.print_exc()
        shown = explain(error, task)
        send(Failed(time=time.time(), message=shown.message, remedy=shown.remedy))
        return shown.exit_code


def explain(error: Exception, task: str) -> VramplanError:
    """The error a person is shown; our own errors pass through."""
    if isinstance(error, VramplanError):
        return error
    if is_out_of_memory(error):
        return RunError(f"out of memory in {task}: {first_line(error)}", remedy="free some memory and try again")
    if is_disk_full(error):
        return RunError(f"the disk is full: {first_line(error)}", remedy="free some space and try again")
    return RunError(
        f"{type(error).__name__} in {task}: {first_line(error)}", remedy=f"the full traceback is in {task}.log"
    )


def narrate(send: Send) -> Callable[[str], None]:
    """A function that says one sentence of progress."""

    def say(what: str) -> None:
        send(Progress(time=time.time(), what=what))

    return say


def _merge(request: str, send: Send, stop: Stop) -> str:
    from vramplan.executor.merge_request import MergeRequest
    from vramplan.executor.merge_weights import merge

    asked = MergeRequest.model_validate_json(request)
    merge(asked, narrate(send))
    return asked.output


def _chat(request: str, send: Send, stop: Stop) -> str:
    from vramplan.executor.chat_model import chat

    chat(request, send, stop, iter(sys.stdin.readline, ""))
    return ""


def _evaluate(request: str, send: Send, stop: Stop) -> str:
    from vramplan.executor.evaluate_scores import carry_out

    return carry_out(request, narrate(send))


TASKS: dict[str, Callable[[str, Send, Stop], str]] = {"chat": _chat, "evaluate": _evaluate, "merge": _merge}
"""Each carries out a request and returns where what it made lies."""


if __name__ == "__main__":
    sys.exit(main())
