"""Peaks per phase on a CPU: torch.profiler's allocation events over one optimizer step, added to the live bytes.

The profiler reports what the allocator does, without a dispatch mode that would change what eager code allocates.
It cannot report the release of memory taken before it started, so it starts one step early and only the second step
counts; the bytes alive when that step begins are counted on the objects themselves (``static_bytes.live_bytes``).
"""

import gc
from collections.abc import Iterator
from typing import Any

from vramplan.executor.phases import Peak
from vramplan.executor.static_bytes import live_bytes
from vramplan.planner.memory.budget import PhaseName

MEASURED_BY = "torch.profiler's allocation events over one optimizer step, added to the bytes of the live tensors"
_MARK = "vramplan::"
_BEGIN = "begin"
_END = "end"


class CpuMeter:
    """Profiles one warm-up step and one measured step.

    Args:
        measured_step: the optimizer step (from 1) whose peaks are reported.
    """

    def __init__(self, measured_step: int) -> None:
        self.measured_step = measured_step
        self.base_bytes: int | None = None
        """Live bytes when the measured step began."""
        self.end_bytes: int | None = None
        """Live bytes when it ended, counted on the objects again: the events must lead there."""
        self._profiler: Any = None
        self._events: list[tuple[int, int | str]] = []

    def begin_step(self, step: int) -> None:
        if step == max(1, self.measured_step - 1):
            self._start()
        if step == self.measured_step and self._profiler is not None:
            gc.collect()
            self.base_bytes = live_bytes("cpu")
            self._note(_BEGIN)

    def mark(self, phase: PhaseName) -> None:
        if self._profiler is not None:
            self._note(phase)

    def end_step(self, step: int) -> None:
        if step == self.measured_step and self._profiler is not None:
            self._note(_END)
            self._stop()
            self.end_bytes = live_bytes("cpu")

    def close(self) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(None, None, None)
            self._profiler = None
            self.base_bytes = None

    def peaks(self) -> dict[PhaseName, Peak]:
        if self.base_bytes is None:
            return {}
        return {phase: Peak(allocated_bytes=peak) for phase, peak in integrate(self._events, self.base_bytes).items()}

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        self._profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)
        self._profiler.__enter__()

    def _stop(self) -> None:
        self._profiler.__exit__(None, None, None)
        tree = self._profiler.profiler.kineto_results.experimental_event_tree()
        self._events = sorted(_walk(tree), key=lambda event: event[0])
        self._profiler = None

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
