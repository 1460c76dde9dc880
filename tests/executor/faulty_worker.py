"""A worker with a fault in it: ``python -P faulty_worker.py FAULT PLAN ATTEMPT``. The product knows nothing of it."""

import os
import signal
import sys
import time
from typing import Any

from vramplan.executor import disk, saving, worker
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


def full_disk(looks: str) -> None:
    """The disk is full the first so many times anybody looks."""
    left = [int(looks)]
    disk.POLL_SECONDS = 0.01
    free_bytes = disk.free_bytes

    def full(folder: Any) -> int:
        left[0] -= 1
        return 0 if left[0] >= 0 else free_bytes(folder)

    disk.free_bytes = saving.free_bytes = full


def hang(step: str) -> None:
    """The training step after this one never returns, and SIGTERM does not help."""
    real = PlannedTrainer.training_step

    def stuck(self: Any, *rest: Any) -> Any:
        if self.state.global_step == int(step):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        return real(self, *rest)

    PlannedTrainer.training_step = stuck  # type: ignore[method-assign]


def killed_while_saving(step: str) -> None:
    """SIGKILL when this step's checkpoint is written but not sealed."""
    from vramplan.executor import checkpoints

    seal = checkpoints.seal

    def kill(folder: Any, so_far: Any, at: int) -> Any:
        if at == int(step):
            os.kill(os.getpid(), signal.SIGKILL)
        return seal(folder, so_far, at)

    checkpoints.seal = kill


FAULTS = {fault.__name__: fault for fault in (out_of_memory, full_disk, hang, killed_while_saving)}

if __name__ == "__main__":
    name, _, parameter = sys.argv[1].partition("=")
    FAULTS[name](parameter)
    sys.exit(worker.main(sys.argv[2:]))
