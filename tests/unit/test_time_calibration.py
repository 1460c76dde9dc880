"""Runs of one's own against the time model, worked by hand."""

import pytest

from vramplan.planner.throughput.calibration import calibrated, mfu_of_run
from vramplan.planner.throughput.values import Range, StepTime, TimeLine

TIME = StepTime(
    seconds=Range(low=9.0, typical=10.0, high=12.0),
    lines=(TimeLine(phase="forward", seconds=10.0, because=""),),
    tokens_per_step=1000,
    tokens_per_second=Range(low=1000 / 12, typical=100.0, high=1000 / 9),
    model_flops=400 * 10**12,
    device_flops=500 * 10**12,
    peak_flops_per_second=100 * 10**12,
    mfu=0.4,
    basis="published runs",
)


def test_a_run_at_125_tokens_a_second_of_04_tflop_each_uses_half_of_100_tflops():
    assert mfu_of_run(TIME, 125.0) == pytest.approx(0.5)


def test_runs_that_took_a_fifth_longer_scale_the_time_its_rate_and_its_range():
    scaled = calibrated(TIME, [1.1, 1.2, 1.5])
    assert (scaled.seconds.low, scaled.seconds.typical, scaled.seconds.high) == pytest.approx((11.0, 12.0, 15.0))
    assert scaled.tokens_per_second.typical == pytest.approx(1000 / 12)
    assert scaled.lines[0].seconds == pytest.approx(12.0)
    assert scaled.mfu == pytest.approx(1 / 3)
    assert scaled.basis == "published runs; scaled by 3 runs on this device"


def test_without_runs_the_time_stays():
    assert calibrated(TIME, []) is TIME
