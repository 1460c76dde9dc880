"""Peaks per phase on CUDA: the caching allocator's own statistics, read and reset at every mark of every step."""

from vramplan.executor.cuda_memory import read_cuda
from vramplan.executor.phases import Peak
from vramplan.planner.memory.budget import PhaseName

MEASURED_BY = "torch.cuda.max_memory_allocated and max_memory_reserved, reset at the edges of every phase"


class CudaMeter:
    """The highest peak of each phase over the whole run. Costs one host-side statistics call a mark."""

    def __init__(self, measured_step: int) -> None:
        self.measured_step = measured_step
        self._phase: PhaseName | None = None
        self._peaks: dict[PhaseName, Peak] = {}

    def begin_step(self, step: int) -> None:
        self._read()

    def begin_micro_batch(self, step: int, index: int, count: int) -> None:
        """Nothing: phases are told apart by marks."""

    def mark(self, phase: PhaseName) -> None:
        if phase != self._phase:
            self._read()
            self._phase = phase

    def end_step(self, step: int) -> None:
        self._read()

    def begin_outside(self, phase: PhaseName) -> None:
        """Nothing: the phase has been marked."""

    def end_outside(self) -> None:
        self._read()

    def close(self) -> None:
        self._read()

    def peaks(self) -> dict[PhaseName, Peak]:
        return dict(self._peaks)

    def _read(self) -> None:
        import torch

        if self._phase is not None:
            before, now = self._peaks.get(self._phase, Peak()), read_cuda()
            self._peaks[self._phase] = Peak(
                allocated_bytes=max(before.allocated_bytes or 0, now.peak_allocated_bytes),
                reserved_bytes=max(before.reserved_bytes or 0, now.peak_reserved_bytes),
            )
        self._phase = None
        torch.cuda.reset_peak_memory_stats()
