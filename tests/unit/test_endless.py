"""Where segments expand and the driver never refuses, the simple allocator is the whole one, to the byte."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.test_passes import LLAMA, MODELS, SIZES, Model, shipped
from vramplan.planner.memory import passes
from vramplan.planner.memory.alloc_conf import parse_alloc_conf
from vramplan.planner.memory.allocator import CachingAllocator, OutOfDeviceMemory
from vramplan.planner.memory.blocks import Block
from vramplan.planner.memory.endless import EndlessAllocator, is_endless
from vramplan.planner.memory.expand import Expanded

CONFS = ("expandable_segments:True", "large_segment_size_mb:32,expandable_segments:True")


def place(block: Block | None) -> Any:
    """Where a block is in its segment."""
    return None if block is None else (block.address - block.pool.base_address, block.size_bytes)


@given(
    conf=st.sampled_from(CONFS),
    events=st.lists(st.tuples(st.booleans(), st.one_of(SIZES, st.integers(0, 24 * 2**20))), max_size=60),
)
def test_every_tensor_gets_the_same_place_and_as_much_is_reserved(conf: str, events: list[tuple[bool, int]]) -> None:
    whole, simple = CachingAllocator(parse_alloc_conf(conf)), EndlessAllocator(parse_alloc_conf(conf))
    live: list[tuple[Block | None, Block | None]] = []
    for takes, number in events:
        if takes or not live:
            live.append((whole.take(number), simple.take(number)))
            assert place(live[-1][0]) == place(live[-1][1])
        else:
            theirs, ours = live.pop(number % len(live))
            whole.give(theirs)
            simple.give(ours)
        assert simple.max_reserved_bytes == whole.max_reserved_bytes


def assert_same(conf: str, before: list[int], step: Expanded) -> None:
    """Two steps, layers put down as one was watched, beside every request of them."""
    whole, simple = CachingAllocator(parse_alloc_conf(conf)), EndlessAllocator(parse_alloc_conf(conf))
    for first, second in [(whole.take(size), simple.take(size)) for size in before][::2]:
        whole.give(first)
        simple.give(second)
    for _ in range(2):
        expected: dict[int, Block | None] = {}
        for change in step.changes:
            if change >= 0:
                expected[change] = whole.take(step.storages[change].size_bytes)
            else:
                whole.give(expected.pop(~change))
        alive = passes.play(simple, step)
        assert {index: place(block) for index, block in alive.items()} == {
            index: place(block) for index, block in expected.items()
        }
        assert simple.max_reserved_bytes == whole.max_reserved_bytes
        for index in sorted(alive):
            simple.give(alive[index])
            whole.give(expected[index])


@settings(max_examples=60)
@given(conf=st.sampled_from(CONFS), before=st.lists(SIZES, max_size=8), model=MODELS)
def test_layers_that_are_skipped_reserve_what_they_would_have(conf: str, before: list[int], model: Model) -> None:
    assert_same(conf, before, model.step)


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_real_steps_reserve_the_same(method: str) -> None:
    assert_same(CONFS[0], [5 * 2**20, 300 * 2**20, 2**19], shipped(*LLAMA, method))


def test_it_stands_in_only_where_nothing_else_decides() -> None:
    plain = parse_alloc_conf(CONFS[0])
    assert is_endless(plain, None)
    assert not is_endless(plain, 24 * 2**30)
    for other in (
        "",
        "expandable_segments:True,max_split_size_mb:64",
        "expandable_segments:True,roundup_power2_divisions:4",
    ):
        assert not is_endless(parse_alloc_conf(other), None)


def test_no_device_has_an_exbibyte() -> None:
    with pytest.raises(OutOfDeviceMemory, match="no room"):
        EndlessAllocator(parse_alloc_conf(CONFS[0])).take(2**60)
