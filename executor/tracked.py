"""A second opinion: one more step under the tracker that makes memory programs (planner/trace/tracker.py).

It sees what Python can see, tensor storages, where the meter sees the allocator; a difference between the two is memory
inside kernels. Asked for with ``--track``, because the tracker rewrites operations it knows from tracing.
"""

import gc
from typing import Any

from vramplan.executor.phases import Peak, PhaseMeter
from vramplan.executor.static_bytes import grain_bytes, live_tensors
from vramplan.planner.memory.budget import PhaseName


class TrackedStep:
    """Wraps a meter: passes everything on, and tracks the step after the measured one.

    Args:
        meter: does the measuring.
        device_type: where the storages are.
    """

    def __init__(self, meter: PhaseMeter, device_type: str) -> None:
        self.meter = meter
        self.device_type = device_type
        self._tracker: Any = None
        self._peaks: dict[PhaseName, int] = {}

    @property
    def measured_step(self) -> int:
        return self.meter.measured_step

    @measured_step.setter
    def measured_step(self, step: int) -> None:
        self.meter.measured_step = step

    def begin_step(self, step: int) -> None:
        self.meter.begin_step(step)
        if step == self.measured_step + 1:
            self._start()

    def begin_micro_batch(self, step: int, index: int, count: int) -> None:
        self.meter.begin_micro_batch(step, index, count)

    def mark(self, phase: PhaseName) -> None:
        self.meter.mark(phase)
        if self._tracker is not None:
            self._tracker.where.name = phase

    def end_step(self, step: int) -> None:
        if self._tracker is not None:
            self._stop()
        self.meter.end_step(step)

    def begin_outside(self, phase: PhaseName) -> None:
        self.meter.begin_outside(phase)

    def end_outside(self) -> None:
        self.meter.end_outside()

    def close(self) -> None:
        if self._tracker is not None:
            self._stop()
        self.meter.close()

    def peaks(self) -> dict[PhaseName, Peak]:
        return {
            phase: peak.model_copy(update={"tracked_bytes": self._peaks.get(phase)})
            for phase, peak in self.meter.peaks().items()
        }

    def _start(self) -> None:
        from vramplan.planner.trace.tracker import Tracker

        gc.collect()
        self._tracker = Tracker(self.device_type)
        for tensor in live_tensors(self.device_type):
            self._tracker.see(tensor)
        self._tracker.__enter__()

    def _stop(self) -> None:
        self._tracker.__exit__(None, None, None)
        self._peaks = _integrate(self._tracker, grain_bytes(self.device_type))
        self._tracker = None


def _integrate(tracker: Any, grain: int) -> dict[PhaseName, int]:
    """The highest sum of live storages in each phase; what was there before belongs to phase ``init``."""
    peaks: dict[Any, int] = {}
    live = 0
    for event in list(tracker.events):
        if event.kind in ("alloc", "free"):
            size_bytes = -(-tracker.storages[event.storage].nbytes // grain) * grain
            live += size_bytes if event.kind == "alloc" else -size_bytes
        phase = event.segment[0]
        peaks[phase] = max(peaks.get(phase, 0), live)
    peaks.pop("init", None)
    return peaks
