"""What a run takes: hours, energy and money, worked by hand."""

import pytest

from vramplan.planner.device import DeviceProfile
from vramplan.planner.methods import Lora
from vramplan.planner.throughput.cost import run_cost
from vramplan.planner.throughput.values import Range, StepTime
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

PROFILE = DeviceProfile(
    name="A card",
    vendor="NVIDIA",
    kind="cuda",
    architecture="Ampere",
    total_bytes=None,
    total_basis="",
    tdp_watts=400,
    usd_per_hour=1.5,
    usd_per_hour_on="2026-09-06",
)
TIME = StepTime(
    seconds=Range(low=8.0, typical=10.0, high=15.0),
    lines=(),
    tokens_per_step=16_000,
    tokens_per_second=Range(low=1.0, typical=1.0, high=1.0),
    model_flops=1,
    device_flops=1,
    peak_flops_per_second=1,
    mfu=0.5,
    basis="",
)
WORKLOAD = Workload(sequence_length=1000, sequences_per_step=16, num_examples=11_521, num_train_epochs=2.0)
SETUP = TrainingSetup(method=Lora())


def test_two_epochs_of_11521_rows_at_ten_seconds_a_step_are_1441_steps_and_four_hours():
    cost = run_cost(TIME, WORKLOAD, SETUP, PROFILE)
    assert cost.steps == 1441
    assert cost.hours is not None
    assert cost.hours.typical == pytest.approx(4.0028, abs=1e-4)
    assert cost.kilowatt_hours is not None
    assert cost.kilowatt_hours.typical == pytest.approx(1.36, abs=0.01)
    assert cost.usd is not None
    assert cost.usd.typical == pytest.approx(6.004, abs=1e-3)
    assert cost.price_basis == "A card rented on demand, 2026-09-06"


def test_a_given_price_replaces_the_profiles():
    cost = run_cost(TIME, WORKLOAD, SETUP, PROFILE, usd_per_hour=3.0)
    assert cost.usd is not None
    assert cost.usd.high == pytest.approx(1441 * 15 / 3600 * 3.0)


def test_without_rows_there_are_no_hours_and_the_missing_option_is_named():
    cost = run_cost(TIME, Workload(sequence_length=1000), SETUP, PROFILE)
    assert (cost.steps, cost.hours, cost.usd) == (None, None, None)
    assert "--data" in cost.unknown_because[0]


def test_a_device_without_a_price_or_power_has_hours_alone():
    profile = PROFILE.model_copy(update={"usd_per_hour": None, "tdp_watts": None})
    cost = run_cost(TIME, WORKLOAD, SETUP, profile)
    assert cost.hours is not None
    assert (cost.kilowatt_hours, cost.usd) == (None, None)
    assert any("--price" in reason for reason in cost.unknown_because)


def test_an_unknown_step_time_leaves_every_figure_unknown():
    assert run_cost(None, WORKLOAD, SETUP, PROFILE).hours is None


def test_rows_half_as_long_on_average_take_half_as_long():
    varied = WORKLOAD.model_copy(update={"length_quantiles": (0, 250, 500, 750, 1000)})
    alike, shorter = run_cost(TIME, WORKLOAD, SETUP, PROFILE).hours, run_cost(TIME, varied, SETUP, PROFILE).hours
    assert alike is not None
    assert shorter is not None
    assert shorter.typical == pytest.approx(alike.typical / 2)


def test_how_many_packed_rows_there_are_is_not_known_where_lengths_are_not():
    packed = SETUP.model_copy(update={"packing": True})
    assert run_cost(TIME, WORKLOAD, packed, PROFILE).steps is None
    assert run_cost(TIME, WORKLOAD, packed, PROFILE, max_steps=100).steps == 100
