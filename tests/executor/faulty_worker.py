"""A worker with a fault in it: ``python -P faulty_worker.py FAULT PLAN ATTEMPT``. The product knows nothing of it."""

import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from vramplan.executor import worker
from vramplan.executor.attempt import Attempt
from vramplan.executor.marks import Marks
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


def out_of_memory_in(phase: str) -> None:
    """The first attempt runs out of memory in this phase; a step's only from the second step on."""
    import torch

    enter, seen = Marks.enter, list[str]()
    attempt = Attempt.model_validate_json(sys.argv[-1])

    def exhausted(self: Any, name: Any) -> None:
        enter(self, name)
        seen.append(name)
        late = name in ("evaluation", "save") or seen.count("optimizer_step") > 2
        if name == phase and late and attempt.setup is None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    Marks.enter = exhausted  # type: ignore[method-assign]


def small_files(largest_bytes: str) -> None:
    """The kernel refuses longer files while the first checkpoint is written, until the run has said that it pauses."""
    from vramplan.executor import disk, saving

    disk.POLL_SECONDS, saving.AGAIN_SECONDS = 0.05, 0.2
    written = saving.Saver._written
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(self: Any, write: Any, *rest: Any) -> bool:
        if self.evidence.checkpoint_bytes is None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_bytes), limit[1]))
        say = self.say

        def heard(what: str) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            say(what)

        self.say = heard
        return written(self, write, *rest)

    saving.Saver._written = limited  # type: ignore[method-assign]


def hoard(most_bytes: str) -> None:
    """From the second step on, every step keeps as much memory as it can get, up to this."""
    import torch

    step, kept = PlannedTrainer.training_step, list[Any]()

    def hoarding(self: Any, *rest: Any) -> Any:
        self.marks.enter("forward")
        try:
            while self.state.global_step >= 1 and len(kept) < int(most_bytes) // 2**24:
                kept.append(torch.ones(2**22))
        except RuntimeError:
            peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            Path(sys.argv[-2]).with_name("peak").write_text(str(peak_bytes))
            raise
        return step(self, *rest)

    PlannedTrainer.training_step = hoarding  # type: ignore[method-assign]


FAULTS = {fault.__name__: fault for fault in (out_of_memory, out_of_memory_in, killed_while_saving, small_files, hoard)}

if __name__ == "__main__":
    name, _, parameter = sys.argv[1].partition("=")
    FAULTS[name](parameter)
    sys.exit(worker.main(sys.argv[2:]))
