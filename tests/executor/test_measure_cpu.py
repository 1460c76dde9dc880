"""The CPU's meter against allocations whose sizes are known by hand."""

import gc

import pytest

pytestmark = pytest.mark.train


def test_peaks_are_the_live_bytes_plus_what_each_phase_allocates() -> None:
    torch = pytest.importorskip("torch")
    from vramplan.executor.measure_cpu import CpuMeter
    from vramplan.executor.static_bytes import live_bytes

    held = torch.zeros(1000)
    meter = CpuMeter(measured_step=2)
    left = None
    for step in (1, 2):
        meter.begin_step(step)
        meter.begin_micro_batch(step, 0, 1)
        meter.mark("forward")
        kept = torch.ones(2000)
        scratch = torch.ones(500)
        del scratch
        meter.mark("backward")
        more = torch.ones(3000)
        del kept, more
        left = torch.ones(100)  # frees the first step's, taken inside the profile
        meter.end_step(step)
    gc.collect()
    assert meter.base_bytes is not None
    peaks = {phase: peak.allocated_bytes for phase, peak in meter.peaks().items()}
    assert peaks == {
        "forward": meter.base_bytes + 4 * (2000 + 500),
        "backward": meter.base_bytes + 4 * (2000 + 3000),
    }
    assert meter.end_bytes == meter.base_bytes
    assert live_bytes("cpu") >= 4 * (held.numel() + left.numel())


def test_views_and_tied_tensors_count_once() -> None:
    torch = pytest.importorskip("torch")
    from vramplan.executor.static_bytes import CUDA_GRAIN_BYTES, gradient_bytes, model_bytes

    model = torch.nn.Sequential(torch.nn.Linear(8, 8, bias=False), torch.nn.Linear(8, 8, bias=False))
    assert model_bytes(model, "cpu")["weights"] == 2 * 8 * 8 * 4
    model[1].weight = model[0].weight
    assert model_bytes(model, "cpu")["weights"] == 8 * 8 * 4
    assert gradient_bytes(model, "cpu") == 0
    model(torch.ones(1, 8)).sum().backward()
    assert gradient_bytes(model, "cpu") == 8 * 8 * 4
    assert CUDA_GRAIN_BYTES == 512
