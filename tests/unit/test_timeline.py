"""The course of a step beside the budget it belongs to: two ways through one program."""

import pytest

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.cli.glance import glance
from vramplan.planner.cli.subject import complete, price, subject_of


@pytest.mark.parametrize("micro_batch", [1, 2])
def test_the_highest_moment_of_each_phase_is_its_peak_and_a_glance_is_the_price_without_the_allocator(
    micro_batch: int,
) -> None:
    device, _ = resolve_device("RTX 4090", memory_bytes=None, reserve_bytes=0)
    subject = subject_of(resolve_model("meta-llama/Llama-3.2-1B"), device)
    resolved = complete(subject, {"method": "qlora", "sequence_length": 1024, "micro_batch": micro_batch})
    seen, priced = glance(subject, resolved), price(subject, resolved, with_tensors=False)
    peaks = {phase.name: phase.allocated_bytes for phase in priced.budget.phases}
    for phase in ("forward", "loss", "backward", "optimizer_step"):
        moments = [moment for moment in seen.course if moment.phase == phase]
        assert max(moment.allocated_bytes for moment in moments) == peaks[phase]
    assert seen.budget.phases == priced.budget.phases
    assert seen.budget.process_bytes <= priced.budget.process_bytes


def test_every_layer_is_passed_forward_and_then_back() -> None:
    subject = subject_of(resolve_model("meta-llama/Llama-3.2-1B"), None)
    course = glance(subject, complete(subject, {"method": "lora"})).course
    forward = [moment.layer for moment in course if moment.phase == "forward" and moment.layer is not None]
    backward = [moment.layer for moment in course if moment.phase == "backward" and moment.layer is not None]
    assert forward == list(range(16))
    assert list(dict.fromkeys(backward)) == list(reversed(range(16)))
