"""The ladder: the same rows and tokens a step in less memory, every rung priced, and then a person is asked."""

from hypothesis import given
from hypothesis import strategies as st

from tests.executor.factories import make_budget, make_setup
from vramplan.executor.ladder import choices, next_rung
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import MIB
from vramplan.planner.workload import Workload

WORKLOAD = Workload(sequence_length=512)


def price(workload: Workload, setup: TrainingSetup) -> MemoryBudget:
    """A made-up price: weights fall with quantisation and states with 8 bits, a step grows with its rows and falls with
    checkpointing, an evaluation grows with the rows, the optimizer's step and a save hold weights and states alone."""
    rows = setup.micro_batch_size * workload.sequence_length
    held = (64 if isinstance(setup.method, Qlora) else 128) + (32 if setup.optimizer.endswith("8bit") else 64)
    step = held + rows // (4 if setup.gradient_checkpointing else 1)
    sizes = {"forward": step, "backward": step, "evaluation": held + rows, "optimizer_step": held, "save": held}
    budget = make_budget(step * MIB)
    phases = tuple(
        budget.phases[0].model_copy(update={"name": name, "allocated_bytes": size * MIB})
        for name, size in sizes.items()
    )
    return budget.model_copy(update={"phases": phases, "peak_allocated_bytes": step * MIB})


def rungs_below(setup: TrainingSetup) -> list[str]:
    taken = []
    while (rung := next_rung(WORKLOAD, setup, "backward", price)) is not None:
        taken.append(rung.change)
        setup = rung.setup
    return taken


def test_halves_come_first_then_checkpointing_then_nothing() -> None:
    setup = make_setup(micro_batch_size=4, gradient_accumulation_steps=2)
    assert rungs_below(setup) == [
        "micro batch 4 -> 2, accumulation 2 -> 4",
        "micro batch 2 -> 1, accumulation 4 -> 8",
        "gradient checkpointing",
    ]


def test_rungs_in_use_are_skipped() -> None:
    setup = make_setup(micro_batch_size=1, gradient_checkpointing=True)
    assert next_rung(WORKLOAD, setup, "backward", price) is None


@given(st.integers(1, 4096), st.integers(1, 64))
def test_every_rung_keeps_the_rows_of_a_step(micro_batch: int, accumulation: int) -> None:
    setup = make_setup(micro_batch_size=micro_batch, gradient_accumulation_steps=accumulation)
    while (rung := next_rung(WORKLOAD, setup, "backward", price)) is not None:
        setup = rung.setup
        assert setup.micro_batch_size * setup.gradient_accumulation_steps == micro_batch * accumulation
    assert (setup.micro_batch_size, setup.gradient_checkpointing) == (1, True)


def test_a_rung_that_frees_nothing_where_memory_ran_out_is_skipped() -> None:
    """In the optimizer's step the batch weighs nothing."""
    setup = make_setup(micro_batch_size=4)
    assert next_rung(WORKLOAD, setup, "optimizer_step", price) is None


def test_what_nobody_can_price_is_tried_all_the_same() -> None:
    rung = next_rung(WORKLOAD, make_setup(micro_batch_size=2), None, lambda workload, setup: None)
    assert rung is not None
    assert rung.budget is None


def test_a_person_is_offered_what_changes_the_result_each_with_its_price() -> None:
    offered = choices(WORKLOAD, make_setup(Lora(r=8), micro_batch_size=1), None, price)
    assert offered == (
        "--optimizer adamw_8bit (up to 672.00 MiB)",
        "--method qlora (up to 640.00 MiB)",
        "--sequence-length 256 (up to 448.00 MiB)",
    )
    assert [
        text.split(" (")[0] for text in choices(WORKLOAD, make_setup(Full(), optimizer="sgd"), "backward", price)
    ] == ["--sequence-length 256"]
    assert not any("qlora" in text for text in choices(WORKLOAD, make_setup(Qlora(r=8)), None, price))
