"""A worker that is one of several on a CPU: ``python -P rank_worker.py FAULT PLAN ATTEMPT``. The product knows nothing
of it.

accelerate shards models on GPUs alone, FSDP2 itself anywhere: here it is let do so on a CPU. Each rank writes the rows
it is given beside the plan. FAULT is ``none``, or ``KIND=RANK:STEP``: what befalls one rank in one step.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import accelerate.state
from accelerate.utils import DistributedType

from vramplan.executor import supported, worker
from vramplan.executor.trainer import PlannedTrainer

RANK = int(os.environ.get("RANK", "0"))
_init = accelerate.state.AcceleratorState.__init__


def _sharding(self: Any, *args: Any, **options: Any) -> None:
    _init(self, *args, **options)
    if os.environ.get("ACCELERATE_USE_FSDP") and self.distributed_type in (
        DistributedType.MULTI_CPU,
        DistributedType.FSDP,
    ):
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = options.get("fsdp_plugin") or self.fsdp_plugin


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raises() -> None:
    raise ValueError("a fault of one rank")


def exhausted() -> None:
    import torch

    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def hangs() -> None:
    time.sleep(600)


FAULTS = {fault.__name__: fault for fault in (killed, raises, exhausted, hangs)}


def _befalls(fault: str, folder: Path) -> None:
    name, _, where = fault.partition("=")
    rank, step = map(int, where.split(":")) if where else (-1, -1)
    whole = PlannedTrainer.training_step

    def training_step(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        with (folder / f"rows-{RANK}.jsonl").open("a") as file:
            file.write(json.dumps(inputs["input_ids"].tolist()) + "\n")
        if (rank, step) == (RANK, self.state.global_step + 1) and self.setup.micro_batch_size > 1:
            self.marks.enter("forward")
            FAULTS[name]()
        return whole(self, model, inputs, *rest)

    PlannedTrainer.training_step = training_step  # type: ignore[method-assign]


if __name__ == "__main__":
    accelerate.state.AcceleratorState.__init__ = _sharding
    supported.why_not_as_ranks = lambda setup, kind: None
    _befalls(sys.argv[1], Path(sys.argv[2]).parent)
    sys.exit(worker.main(sys.argv[2:]))
