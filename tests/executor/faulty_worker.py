"""A worker with a fault in it: ``python -P faulty_worker.py FAULT PLAN ATTEMPT``. The product knows nothing of it."""

import os
import signal
import sys
from typing import Any

from vramplan.executor import worker
from vramplan.executor.trainer import PlannedTrainer


def out_of_memory(above: str) -> None:
    """Micro batches of more rows than this exhaust the memory, from the second step on."""
    import torch

    step = PlannedTrainer.training_step

    def exhausted(self: Any, model: Any, inputs: Any, *rest: Any) -> Any:
        if inputs["input_ids"].shape[0] > int(above) and self.state.global_step >= 1:
            self.marks.enter("backward")
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return step(self, model, inputs, *rest)

    PlannedTrainer.training_step = exhausted  # type: ignore[method-assign]


def killed_while_saving(step: str) -> None:
    """SIGKILL when this step's checkpoint is written but not sealed."""
    from vramplan.executor import checkpoints

    seal = checkpoints.seal

    def kill(folder: Any, so_far: Any, at: int) -> Any:
        if at == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return seal(folder, so_far, at)

    checkpoints.seal = kill


FAULTS = {fault.__name__: fault for fault in (out_of_memory, killed_while_saving)}

if __name__ == "__main__":
    name, _, parameter = sys.argv[1].partition("=")
    FAULTS[name](parameter)
    sys.exit(worker.main(sys.argv[2:]))
