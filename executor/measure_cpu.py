"""Peaks per phase on a CPU: the profiler's allocation events over one micro batch and its optimizer step.

The events are added to the bytes alive when they begin, which are counted on the objects (``static_bytes``). The
profiler reports what the allocator does without a dispatch mode, which would change what eager code allocates. Two
things shape the window:

- It cannot report the release of memory taken before it started. So it starts one micro batch early.
- It costs about 2 KB an event, and a step of sixteen micro batches has millions. So the window is the last micro
  batch of the step, when the gradients of the others are alive, and operations are left out: memory and marks only.
"""

import gc
from collections.abc import Iterator
from typing import Any

from vramplan.executor.phases import Peak
from vramplan.executor.static_bytes import live_bytes
from vramplan.planner.memory.budget import PhaseName

MEASURED_BY = (
    "torch's profiler: allocation events over the last micro batch of one optimizer step, added to the bytes of the "
    "live tensors"
)
_MARK = "vramplan::"
_BEGIN = "begin"
_END = "end"


class CpuMeter:
    """Profiles one micro batch to warm up, and one with its optimizer step to measure.

    Args:
        measured_step: the optimizer step (from 1) whose peaks are reported.
        outside: also profile what is outside a step, the first time each; only where that is short.
    """

    def __init__(self, measured_step: int, *, outside: bool = False) -> None:
        self.measured_step = measured_step
        self.measures_outside = outside
        self.base_bytes: int | None = None
        """Live bytes when the measured micro batch began."""
        self.end_bytes: int | None = None
        """Live bytes when its step ended, counted on the objects again: the events must lead there."""
        self._profiling = False
        self._events: list[tuple[int, int | str]] = []
        self._outside: dict[PhaseName, int] = {}
        self._outside_base: int | None = None

    def begin_step(self, step: int) -> None:
        """Nothing: micro batches matter here."""

    def begin_micro_batch(self, step: int, index: int, count: int) -> None:
        last = step == self.measured_step and index == count - 1
        one_before = step == self.measured_step and index == count - 2
        if one_before or (step == self.measured_step - 1 and count == 1) or (last and not self._profiling):
            self._start()
        if last:
            gc.collect()
            self.base_bytes = live_bytes("cpu")
            self._note(_BEGIN)

    def mark(self, phase: PhaseName) -> None:
        if self._profiling:
            self._note(phase)

    def end_step(self, step: int) -> None:
        if step == self.measured_step and self._profiling:
            self._note(_END)
            self._events = self._stop()
            self.end_bytes = live_bytes("cpu")

    def begin_outside(self, phase: PhaseName) -> None:
        """Profile it, if asked to: the events of a long evaluation would fill the host's memory."""
        if not self.measures_outside or self._profiling or phase in self._outside:
            return
        self._start()
        gc.collect()
        self._outside_base = live_bytes("cpu")
        self._note(_BEGIN)
        self._note(phase)

    def end_outside(self) -> None:
        if self._outside_base is None:
            return
        base_bytes, self._outside_base = self._outside_base, None
        self._note(_END)
        self._outside |= integrate(self._stop(), base_bytes)

    def close(self) -> None:
        if self._profiling:
            self._stop()
            self.base_bytes = None

    def peaks(self) -> dict[PhaseName, Peak]:
        measured = self.base_bytes is not None and self._events
        inside = integrate(self._events, self.base_bytes or 0) if measured else {}
        return {phase: Peak(allocated_bytes=peak) for phase, peak in (inside | self._outside).items()}

    def _start(self) -> None:
        # torch.profiler.profile records every operation; the calls under it can be told to record marks alone.
        from torch._C._profiler import RecordScope, _ExperimentalConfig
        from torch.autograd import (
            ProfilerActivity,
            ProfilerConfig,
            ProfilerState,
            _enable_profiler,
            _prepare_profiler,
        )

        shapes, memory, stack, flops, modules = False, True, False, False, False
        config = ProfilerConfig(ProfilerState.KINETO, shapes, memory, stack, flops, modules, _ExperimentalConfig(), "")
        _prepare_profiler(config, {ProfilerActivity.CPU})
        _enable_profiler(config, {ProfilerActivity.CPU}, {RecordScope.USER_SCOPE})
        self._profiling = True

    def _stop(self) -> list[tuple[int, int | str]]:
        from torch.autograd import _disable_profiler

        self._profiling = False
        tree = _disable_profiler().experimental_event_tree()
        return sorted(_walk(tree), key=lambda event: event[0])

    def _note(self, name: str) -> None:
        from torch.profiler import record_function

        with record_function(_MARK + name):
            pass


def integrate(events: list[tuple[int, int | str]], base_bytes: int) -> dict[PhaseName, int]:
    """Peak bytes of each phase between the begin and the end mark.

    Args:
        events: (time, bytes allocated, or freed when negative) and (time, mark), in order of time.
        base_bytes: what is alive at the begin mark.

    >>> integrate([(0, 9), (1, "begin"), (2, "forward"), (3, 100), (4, "loss"), (5, -40), (6, "end")], 1000)
    {'forward': 1100, 'loss': 1100}
    """
    peaks: dict[Any, int] = {}
    phase: str | None = None
    live = base_bytes
    measuring = False
    for _, what in events:
        if isinstance(what, str):
            measuring = what != _END and (measuring or what == _BEGIN)
            phase = what if measuring and what != _BEGIN else None
        elif measuring:
            live += what
        if phase is not None:
            peaks[phase] = max(peaks.get(phase, 0), live)
    return peaks


def _walk(nodes: Any) -> Iterator[tuple[int, int | str]]:
    stack = list(nodes)
    while stack:
        node = stack.pop()
        stack.extend(node.children)
        if node.tag.name == "Allocation":
            if node.extra_fields.device.type == "cpu":
                yield node.start_time_ns, node.extra_fields.alloc_size
        elif node.name.startswith(_MARK):
            yield node.start_time_ns, node.name.removeprefix(_MARK)
