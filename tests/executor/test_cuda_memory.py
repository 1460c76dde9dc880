"""A GPU's statistics, read once a mark: played, for there is none here."""

from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.train


def statistics(now: int, peak: int) -> dict[str, Any]:
    """As ``torch.cuda.memory_stats_as_nested_dict`` gives them; reserved is a MiB more than allocated."""
    more = 2**20
    return {
        "allocated_bytes": {"all": {"current": now, "peak": peak}, "large_pool": {"current": 1, "peak": 1}},
        "reserved_bytes": {"all": {"current": now + more, "peak": peak + more}},
    }


def test_the_numbers_are_those_of_torchs_own_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    from vramplan.executor.cuda_memory import read_cuda

    played = statistics(100, 300)
    monkeypatch.setattr(torch.cuda.memory, "memory_stats_as_nested_dict", lambda device=None: played)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda: played)
    monkeypatch.setattr(torch.cuda.memory, "is_initialized", lambda: True, raising=False)
    theirs = (
        torch.cuda.memory_allocated(), torch.cuda.memory_reserved(),
        torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved(),
    )  # fmt: skip
    assert read_cuda() == theirs == (100, 100 + 2**20, 300, 300 + 2**20)


def test_before_anything_was_allocated_it_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    from vramplan.executor.cuda_memory import read_cuda

    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", dict)
    assert set(read_cuda()) == {0}


def test_each_phase_has_its_highest_peak_and_a_mark_costs_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    from vramplan.executor.measure_cuda import CudaMeter

    peaks = [10, 30, 20, 50, 40]
    readings = iter(peaks)
    monkeypatch.setattr(torch.cuda, "memory_stats_as_nested_dict", lambda: statistics(0, next(readings)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    meter = CudaMeter(2)
    for phases in (("forward", "loss", "backward"), ("forward", "backward")):
        meter.begin_step(1)
        for phase in phases:
            meter.mark(phase)
        meter.end_step(1)
    assert {phase: peak.allocated_bytes for phase, peak in meter.peaks().items()} == {
        "forward": 50, "loss": 30, "backward": 40
    }  # fmt: skip
    assert next(readings, None) is None
