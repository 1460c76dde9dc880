"""Step time: orders that hold for any constants, and what is not known."""

import pytest

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.candidate import Candidate
from vramplan.planner.estimate import estimate
from vramplan.planner.resolve import resolve

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
