"""Step time: orders that hold for any constants, and what is not known."""

import pytest

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.candidate import Candidate
from vramplan.planner.estimate import estimate
from vramplan.planner.resolve import resolve
from vramplan.planner.throughput.communication import sharded
from vramplan.planner.throughput.constants import Constants
from vramplan.planner.throughput.flops import MicroStepWork, Work
from vramplan.planner.throughput.optimizer_traffic import OptimizerTraffic
from vramplan.planner.throughput.step_time import Counted, Rates, step_time
from vramplan.planner.throughput.traffic import MicroStepTraffic, Traffic

LLAMA = "meta-llama/Llama-3.1-8B"


def _price(device_name: str | None = "RTX 4090", **given: object) -> Candidate:
    model = resolve_model(LLAMA)
    device = resolve_device(device_name, memory_bytes=None, reserve_bytes=0)[0] if device_name else None
    found = resolve({"method": "qlora", "sequence_length": 1024, **given}, model, device)
    return estimate(model, found.workload, found.setup, device)


def _seconds(**given: object) -> float:
    time = _price(**given).time
    assert time is not None
    return time.seconds.typical


def test_the_lines_sum_to_the_step_and_the_range_holds_it():
    time = _price().time
    assert time is not None
    assert sum(line.seconds for line in time.lines) == pytest.approx(time.seconds.typical)
    assert time.seconds.low < time.seconds.typical < time.seconds.high
    assert time.tokens_per_second.typical * time.seconds.typical == pytest.approx(time.tokens_per_step)


def test_more_rows_a_step_take_longer_and_checkpointing_costs_time():
    assert _seconds(gradient_accumulation_steps=16) > 1.9 * _seconds(gradient_accumulation_steps=8)
    assert _seconds(gradient_checkpointing=True) > _seconds(gradient_checkpointing=False)


def test_lora_on_a_4_bit_base_is_slower_than_on_a_whole_one_and_full_slower_than_lora():
    lora = _seconds(method="lora")
    assert _seconds(method="qlora") > lora
    assert _seconds(method="full") > lora


def test_a_faster_card_takes_less():
    assert _seconds(device_name="H100 SXM5") < _seconds(device_name="RTX 4090")


def test_without_rates_the_time_is_unknown_and_says_why():
    candidate = _price(device_name=None)
    assert candidate.time is None
    assert candidate.time_unknown_because == "no device named, and its rates decide"


def test_the_worked_example_of_the_documentation_gives_its_seconds():
    """docs/time-model.md; PEFT's benchmark measured 0.117 s."""
    constants = Constants(
        matmul_ceiling=0.98,
        flops_per_joule={"Ada": 0.594e12},
        other_flops_per_joule=0.594e12,
        attention_fraction=0.325,
        memory_fraction=0.85,
        moved_per_written=1.19,
        dequantized_moved=1.5,
        launch_seconds=16.2e-6,
        unhidden=0.373,
        link_fraction=0.7,
        low=0.9,
        high=1.2,
        unmeasured_low=0.72,
        unmeasured_high=1.5,
        basis="an example",
    )
    work = MicroStepWork(
        forward=Work(5_361_408_933_888, 77_302_923_264),
        loss=Work(1_494_057_222_144),
        backward=Work(5_348_610_488_000, 193_257_308_160),
        recomputation=Work(),
    )
    traffic = MicroStepTraffic(
        {
            "forward": Traffic(6_991_369_216, 0, 1736),
            "loss": Traffic(2_340_043_264, 0, 34),
            "backward": Traffic(11_355_787_264, 0, 2287),
        }
    )
    counted = Counted(work, traffic, OptimizerTraffic(9_175_040 * 4 * 23, 0, 12), micro_batches=1, tokens_per_step=948)
    time = step_time(counted, Rates(362 * 10**12, 864 * 10**9, "Ada", 350), constants)
    assert [round(line.seconds, 4) for line in time.lines] == [0.0483, 0.0112, 0.0596, 0.0011]
    assert time.seconds.typical == pytest.approx(0.120, abs=5e-4)


def test_gathering_weights_costs_only_what_the_phases_do_not_hide():
    work = MicroStepWork(forward=Work(10**12), loss=Work(), backward=Work(2 * 10**12), recomputation=Work())
    counted = Counted(work, MicroStepTraffic(), OptimizerTraffic(0, 0, 0), micro_batches=2, tokens_per_step=1000)
    rates = Rates(100 * 10**12, 10**12, "Ampere", 400)
    alone = step_time(counted, rates).seconds.typical
    near = step_time(counted, rates, exchange=sharded(8, 10**12, 10**6)).seconds.typical
    far = step_time(counted, rates, exchange=sharded(8, 10**9, 10**9)).seconds.typical
    assert near == pytest.approx(alone)
    # three times 10^9 bytes x 7/8 at 70 % of 10^9 bytes a second, for each of two micro batches
    assert far == pytest.approx(2 * 3 * 0.875 / 0.7)
