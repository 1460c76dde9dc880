"""Reserved memory over several steps: what holds whatever the program, the lengths and the allocator's settings."""

import dataclasses
import functools
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import KIND, hand_written
from vramplan.planner.adapters import programs
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.candidate import Candidate
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.lengths import record_lengths, step_lengths
from vramplan.planner.memory.replay import At, Replay
from vramplan.planner.memory.reserved import reserved_bytes
from vramplan.planner.memory.segments import OutOfDeviceMemory
from vramplan.planner.memory.static import Group
from vramplan.planner.methods import Lora
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Alloc, Block, Free, Program, Ref, Size
from vramplan.planner.training_setup import Loop, Precision, TrainingSetup
from vramplan.planner.workload import Workload

MIB = 2**20
CONFS = ("", "expandable_segments:True")
DIMS = {"h": 256, "f": 512, "H": 4, "K": 2, "d": 64, "V": 9000, "r": 8}


def at_length(program: Program, length: int) -> Replay:
    sizes = DIMS | {"B": 2, "S": length, "N": 2 * (length - 1)}
    return Replay(program, At(sizes, program.key.structure.kinds, 512))


def reserved(steps: list[Replay], conf: str, *, static: int = 0, warmed_up: int = 0, limit: int | None = None) -> int:
    return reserved_bytes(
        steps,
        warmed_up_bytes=warmed_up,
        loading_bytes=[],
        before=[Group(static, 1, 1)] if static else [],
        optimizer=[],
        gradients=[],
        step_temporaries=[],
        workspace_bytes=0,
        alloc_conf=conf,
        limit_bytes=limit,
    )


@functools.cache
def a_shipped_program() -> Program:
    found = (programs._shipped(digest) for digest in sorted(programs.shipped_digests()))
    return next(
        program
        for program in found
        if program is not None and program.key.structure.config is None and program.key.structure.heads == "gqa"
    )


def test_a_tiny_step_takes_one_small_segment() -> None:
    # every tensor of the step by hand is under a MiB: they share one 2 MiB segment
    sizes = {"B": 2, "S": 3, "N": 4, "h": 4, "f": 8, "H": 2, "K": 2, "d": 2, "V": 10, "r": 1}
    step = Replay(hand_written(), At(sizes, (KIND,) * 4, 512))
    assert reserved([step], "") == 2 * MIB
    # 30 MiB of weights have a segment of their own beside it
    assert reserved([step], "", static=30 * MIB) == 32 * MIB


def test_what_was_warmed_up_stays_reserved() -> None:
    sizes = {"B": 2, "S": 3, "N": 4, "h": 4, "f": 8, "H": 2, "K": 2, "d": 2, "V": 10, "r": 1}
    step = Replay(hand_written(), At(sizes, (KIND,) * 4, 512))
    assert reserved([step], "", static=30 * MIB, warmed_up=40 * MIB) == 42 * MIB


def test_what_the_optimizer_step_holds_is_given_back_before_the_next_step() -> None:
    sizes = {"B": 2, "S": 3, "N": 4, "h": 4, "f": 8, "H": 2, "K": 2, "d": 2, "V": 10, "r": 1}
    step = Replay(hand_written(), At(sizes, (KIND,) * 4, 512))
    for steps in (1, 2, 5):
        found = reserved_bytes(
            [step] * steps,
            warmed_up_bytes=0,
            loading_bytes=[12 * MIB, 14 * MIB],
            before=[],
            optimizer=[],
            gradients=[],
            step_temporaries=[Group(30 * MIB, 1, 1), Group(20 * MIB, 1, 2)],
            workspace_bytes=0,
            alloc_conf="",
        )
        # the step's own segment; 30 and 20 MiB, and two that loading left, too small for either: once, not each step
        assert found == (2 + 30 + 2 * 20 + 12 + 14) * MIB


def test_logits_that_a_loops_names_keep_are_there_beside_the_next_steps() -> None:
    """A loop by hand binds ``outputs`` again only once the next forward has made its own: 30 MiB of logits by hand, in
    segments of their own; from the second step on two of them."""
    program = hand_written()
    logits = len(program.sizes)
    carried = (Alloc(logits, "loss", 3),)
    head, kept = (Alloc(logits, "loss", 3), Free(Ref("carried", None, 0))), ()
    templates = (*program.templates[:2], head, kept, *program.templates[4:], carried)
    blocks = (Block("carried", (("", len(templates) - 1),)), *program.blocks)
    loop = dataclasses.replace(program, sizes=(*program.sizes, Size(30 * MIB)), templates=templates, blocks=blocks)
    sizes = {"B": 2, "S": 3, "N": 4, "h": 4, "f": 8, "H": 2, "K": 2, "d": 2, "V": 10, "r": 1}
    step = Replay(loop, At(sizes, (KIND,) * 4, 512))
    assert [reserved([step] * steps, "") for steps in (1, 2, 3)] == [32 * MIB, 62 * MIB, 62 * MIB]


@pytest.mark.parametrize("conf", CONFS)
@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(2, 1500), min_size=1, max_size=4))
def test_reserved_covers_every_step_and_never_falls(conf: str, lengths: list[int]) -> None:
    steps = [at_length(a_shipped_program(), length) for length in (max(lengths), *lengths)]
    allocated = max(peak.total_bytes for peak in steps[0].run().peaks.values())
    alone, varied = reserved(steps[:1], conf), reserved(steps, conf)
    assert allocated <= alone <= varied


def test_rows_that_grow_take_segments_of_their_own_and_expandable_segments_do_not_care() -> None:
    # blocks above 10 MiB have segments of their own, which a longer row cannot use, but a shorter one can
    steps = [at_length(a_shipped_program(), length) for length in (900, 1200, 1500)]
    assert reserved(steps, "") > reserved(steps[::-1], "")
    assert reserved(steps, "expandable_segments:True") == reserved(steps[::-1], "expandable_segments:True")


def test_lengths_are_those_of_padded_batches() -> None:
    assert step_lengths((), 4) == ()
    one, many = step_lengths(range(0, 101, 10), 1), step_lengths(range(0, 101, 10), 16)
    assert max(one) == max(many) == 100
    assert all(longer >= shorter for shorter, longer in zip(one, many, strict=True))


def test_records_grow_rare_as_they_do_in_a_run_of_chance() -> None:
    # the k-th of n draws is the longest so far with a chance of 1/k: 1 + 1/2 + ... + 1/1000 = 7.49
    quantiles = tuple(range(0, 100_001, 10_000))
    runs = [record_lengths(quantiles, 1, 1000, seed) for seed in range(500)]
    assert abs(sum(map(len, runs)) / len(runs) - 7.49) < 0.3
    assert all(list(run) == sorted(set(run)) and run[-1] == 100_000 for run in runs)
    # rows cut to one length are its equals from the first of them on
    assert record_lengths((512, 512, 512), 4, 1000, seed=1) == (512,)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_longest_so_far_and_a_few_others_reserve_as_much_as_every_step(seed: int) -> None:
    chance = random.Random(seed)
    lengths = [chance.randint(2, 1500) for _ in range(40)]
    longest_so_far = list(dict.fromkeys(itertools.accumulate(lengths, max)))
    few = [*longest_so_far, *step_lengths(sorted(lengths)[::4], 1)]
    every, some = (
        reserved([at_length(a_shipped_program(), length) for length in those], "") for those in (lengths, few)
    )
    assert abs(some / every - 1) < 0.01


def priced(conf: str, quantiles: tuple[int, ...], loop: Loop = "executor") -> Candidate:
    setup = TrainingSetup(
        loop=loop,
        loss="standard",
        method=Lora(),
        precision=Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32"),
        micro_batch_size=2,
        alloc_conf=conf,
    )
    workload = Workload(sequence_length=1024, length_quantiles=quantiles)
    model = resolve_model("Qwen/Qwen2.5-0.5B", online=False)
    return estimate(model, workload, setup, None, programs=_of_the_executors_loop, with_tensors=False)


def _of_the_executors_loop(key: ProgramKey) -> programs.Found:
    """Programs of the trainer's loop do not ship; what a step allocates is not what these tests ask about."""
    mode = key.mode.model_copy(update={"loop": "executor"})
    return programs.find_program(key.model_copy(update={"mode": mode}))


def test_rows_of_many_lengths_fragment_the_default_allocator_more_than_expandable_segments() -> None:
    quantiles = (20, 90, 170, 260, 350, 450, 560, 680, 800, 900, 1024)
    more = {}
    for conf in CONFS:
        alike, varied = priced(conf, ()).budget, priced(conf, quantiles).budget
        assert alike.peak_allocated_bytes == varied.peak_allocated_bytes
        more[conf] = varied.peak_reserved_bytes - alike.peak_reserved_bytes
    assert more[""] >= more["expandable_segments:True"] >= 0


def test_a_trainer_that_draws_its_rows_is_priced_in_orders_of_chance() -> None:
    quantiles = (20, 90, 170, 260, 350, 450, 560, 680, 800, 900, 1024)
    ours, theirs = priced("", quantiles).budget, priced("", quantiles, "trainer").budget
    assert theirs.peak_allocated_bytes == ours.peak_allocated_bytes
    assert ours.peak_reserved_bytes < theirs.peak_reserved_bytes
    # the orders differ, and the upper bound is that of the worst
    alike = priced("", (), "trainer").budget
    gap = alike.high_reserved_bytes - alike.peak_reserved_bytes
    assert theirs.high_reserved_bytes > theirs.peak_reserved_bytes + gap


def test_a_driver_with_less_is_asked_again_once_the_cache_is_given_back() -> None:
    # rows that grow leave segments that nothing uses: without them, what the longest needs alone is enough
    program = a_shipped_program()
    steps = [at_length(program, length) for length in (900, 1200, 1500)]
    without_end, longest_alone = reserved(steps, ""), reserved(steps[-1:], "")
    assert longest_alone < without_end
    assert 0 < reserved(steps, "", limit=longest_alone) <= longest_alone
    with pytest.raises(OutOfDeviceMemory):
        reserved(steps, "", limit=steps[-1].run().peaks["backward"].total_bytes // 2)
