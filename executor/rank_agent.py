"""Starts the ranks of one node as torchrun does: ``python -P -m vramplan.executor.rank_agent COUNT COMMAND ...``.

The agent is torchrun's own (torch.distributed.launcher): it gives each rank its number, watches them, and ends the
others when one fails. Two things are ours: signals are handed on to the ranks, which finish their step and save, where
torchrun gives them half a minute; and how each rank ended is told as an event, so that the run can name it.
"""

import faulthandler
import os
import signal
import sys
import tempfile
import time
import uuid
from types import FrameType

import psutil

from vramplan.executor.events import RanksEnded
from vramplan.planner.errors import ExitCode

HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
ADDRESS = "127.0.0.1"


def main(argv: list[str]) -> int:
    """Run COMMAND as so many ranks; 0 once all of them ended well."""
    count, *command = argv
    for number in HANDED_ON:
        signal.signal(number, _hand_on)
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    with tempfile.TemporaryDirectory() as folder:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=int(count),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint=f"{ADDRESS}:0",
            local_addr=ADDRESS,
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            signals_to_handle="SIGHUP,SIGQUIT",
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except ChildFailedError as error:
            ended = {rank: failure.exitcode for rank, failure in error.failures.items()}
            told = RanksEnded(event="ranks_ended", time=time.time(), exit_statuses=ended)
            sys.stdout.write(told.model_dump_json() + "\n")
            sys.stdout.flush()
            return ExitCode.FAILED
    return ExitCode.OK


def _hand_on(number: int, frame: FrameType | None) -> None:
    """To every rank; before there are any, what the signal would do to one."""
    ranks = psutil.Process().children()
    for rank in ranks:
        rank.send_signal(number)
    if not ranks and number == signal.SIGUSR1:
        faulthandler.dump_traceback()
    elif not ranks:
        os._exit(ExitCode.INTERRUPTED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
