"""The ladder after an out-of-memory error: the same optimization in less memory, and then a question to a person.

    half the micro batch, twice the accumulation    the same rows in the same order, the same tokens a step
    gradient checkpointing                          the same numbers, recomputed
    then a person must choose                       8-bit optimizer, QLoRA, shorter rows: another result

Rungs in use are skipped, and so is one that frees next to nothing where memory ran out. A choice is offered only where
it frees something there.
"""

from collections.abc import Callable, Iterator

from vramplan.planner.memory.budget import MemoryBudget, PhaseName
from vramplan.planner.methods import Lora, Qlora
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes
from vramplan.planner.values import Value
from vramplan.planner.workload import Workload

Price = Callable[[Workload, TrainingSetup], MemoryBudget | None]
"""The planner's price of another workload and setup of the plan; None where nobody can price it."""
EIGHT_BIT = {"adamw_torch": "adamw_8bit", "adamw_torch_fused": "adamw_8bit"}
LEAST_FREED_FRACTION = 0.01
"""A rung that frees less of a phase is not worth a process: a smaller batch frees its token ids everywhere."""


class NextRung(Value):
    """A setup that needs less, and its price."""

    change: str
    setup: TrainingSetup
    budget: MemoryBudget | None


def next_rung(workload: Workload, setup: TrainingSetup, phase: PhaseName | None, price: Price) -> NextRung | None:
    """The next setup to try; None when only a person can decide.

    Args:
        setup: the setup that ran out of memory.
        phase: where; None when that is not known.
    """
    now = price(workload, setup)
    for change, lower in _rungs(setup):
        budget = price(workload, lower)
        if _frees(now, budget, phase):
            return NextRung(change=change, setup=lower, budget=budget)
    return None


def choices(workload: Workload, setup: TrainingSetup, phase: PhaseName | None, price: Price) -> tuple[str, ...]:
    """What a person could choose instead, as options of ``vramplan plan``, each with its price where it has one."""
    offered = []
    now = price(workload, setup)
    for option, changed, lower in _sacrifices(workload, setup):
        budget = price(changed, lower)
        if not _frees(now, budget, phase):
            continue
        cost = "" if budget is None else f" (up to {format_bytes(budget.high_process_bytes)})"
        offered.append(option + cost)
    return tuple(offered)


def _rungs(setup: TrainingSetup) -> Iterator[tuple[str, TrainingSetup]]:
    """Every rung below a setup, the nearest first."""
    micro_batch, accumulation = setup.micro_batch_size, setup.gradient_accumulation_steps
    while (smaller := _largest_proper_divisor(micro_batch)) is not None:
        micro_batch, accumulation = smaller, accumulation * (micro_batch // smaller)
        yield (
            f"micro batch {setup.micro_batch_size} -> {micro_batch}, "
            f"accumulation {setup.gradient_accumulation_steps} -> {accumulation}",
            setup.model_copy(update={"micro_batch_size": micro_batch, "gradient_accumulation_steps": accumulation}),
        )
    if not setup.gradient_checkpointing:
        yield "gradient checkpointing", setup.model_copy(update={"gradient_checkpointing": True})


def _sacrifices(workload: Workload, setup: TrainingSetup) -> Iterator[tuple[str, Workload, TrainingSetup]]:
    """Changes that change the result: the option, and the workload and setup it leads to."""
    eight_bit = EIGHT_BIT.get(setup.optimizer)
    if eight_bit is not None:
        yield f"--optimizer {eight_bit}", workload, setup.model_copy(update={"optimizer": eight_bit})
    method = setup.method
    if isinstance(method, Lora):
        quantised = Qlora(**method.model_dump(exclude={"kind"}))
        yield "--method qlora", workload, setup.model_copy(update={"method": quantised})
    length = workload.sequence_length // 2
    if length >= 1:
        yield f"--sequence-length {length}", workload.model_copy(update={"sequence_length": length}), setup


def _frees(now: MemoryBudget | None, lower: MemoryBudget | None, phase: PhaseName | None) -> bool:
    """What nobody can price is tried all the same."""
    if now is None or lower is None:
        return True
    return _bytes_in(lower, phase) <= (1 - LEAST_FREED_FRACTION) * _bytes_in(now, phase)


def _bytes_in(budget: MemoryBudget, phase: PhaseName | None) -> int:
    """Bytes of the phase that failed, or of the peak where that phase has no budget."""
    return next((each.allocated_bytes for each in budget.phases if each.name == phase), budget.peak_allocated_bytes)


def _largest_proper_divisor(number: int) -> int | None:
    """Half of an even number; 1 has none.

    >>> [_largest_proper_divisor(number) for number in (8, 9, 3, 1)]
    [4, 3, 1, None]
    """
    smallest = next((divisor for divisor in range(2, number + 1) if number % divisor == 0), None)
    return None if smallest is None else number // smallest
