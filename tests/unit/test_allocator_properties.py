"""What holds for the allocator replay whatever is allocated and freed, under any settings."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.planner.memory.allocator import CachingAllocator, OutOfDeviceMemory, parse_alloc_conf
from vramplan.planner.memory.blocks import Block

MIB = 2**20
CONFS = [
    "",
    "expandable_segments:True",
    "max_split_size_mb:32",
    "expandable_segments:True,max_split_size_mb:32",
    "roundup_power2_divisions:4",
    "large_segment_size_mb:32,expandable_segments:True",
    "garbage_collection_threshold:0.5,per_process_memory_fraction:0.9",
]
sizes = st.one_of(
    st.integers(0, 4096),
    st.integers(0, 2 * MIB),
    st.integers(MIB, 24 * MIB),
    st.sampled_from([MIB, 10 * MIB, 20 * MIB]),
)
# (size to allocate) or (which live tensor to free, counted from the oldest) or (empty the cache)
events = st.lists(
    st.one_of(
        st.tuples(st.just("malloc"), sizes),
        st.tuples(st.just("free"), st.integers(0, 50)),
        st.tuples(st.just("empty_cache"), st.just(0)),
    ),
    max_size=40,
)


def replay(memory: CachingAllocator, steps: list[tuple[str, int]]) -> Iterator[dict[int, int]]:
    """Play the steps; after each, the live tensors and what they asked for."""
    live: dict[int, int] = {}
    for key, (kind, number) in enumerate(steps):
        if kind == "malloc":
            with suppress(OutOfDeviceMemory):
                memory.malloc(key, number)
                live[key] = number
        elif kind == "free" and live:
            oldest = list(live)[number % len(live)]
            memory.free(oldest)
            del live[oldest]
        elif kind == "empty_cache":
            memory.empty_cache()
        yield live


def all_blocks(memory: CachingAllocator) -> list[Block]:
    free = [block for pool in (memory._small, memory._large) for block in pool.blocks]
    bare = [block for pool in (memory._small, memory._large) for _, block in pool.unmapped]
    used = [block for block in memory._live.values() if block is not None]
    return sorted(free + bare + used, key=lambda block: block.address)


def new(conf: str, limit_mib: int | None = None) -> CachingAllocator:
    return CachingAllocator(
        parse_alloc_conf(conf), limit_bytes=limit_mib and limit_mib * MIB, device_bytes=limit_mib and limit_mib * MIB
    )


def check_layout(blocks: list[Block]) -> None:
    """Blocks lie in address order without overlap, and two neighbours of one kind are never both free."""
    for low, high in pairwise(blocks):
        assert low.address + low.size_bytes <= high.address
    for block in blocks:
        assert block.size_bytes > 0
        assert block.address % 512 == block.size_bytes % 512 == 0
        after = block.next
        if after is not None:
            assert after.prev is block
            assert after.address == block.address + block.size_bytes
            assert block.allocated or after.allocated or block.mapped != after.mapped


@pytest.mark.parametrize("conf", CONFS)
@given(steps=events, limit_mib=st.sampled_from([None, 48, 90]))
def test_counters_are_sums_of_blocks_that_never_overlap(
    conf: str, steps: list[tuple[str, int]], limit_mib: int | None
) -> None:
    memory = new(conf, limit_mib)
    for live in replay(memory, steps):
        blocks = all_blocks(memory)
        check_layout(blocks)
        used = [block for block in blocks if block.allocated]
        assert memory.requested_bytes == sum(live.values())
        assert memory.allocated_bytes == sum(block.size_bytes for block in used)
        assert memory.reserved_bytes == sum(block.size_bytes for block in blocks if block.mapped)
        assert sum(-(-size // 512) * 512 for size in live.values()) <= memory.allocated_bytes <= memory.reserved_bytes
        assert memory.allocated_bytes <= memory.max_allocated_bytes
        assert memory.reserved_bytes <= memory.max_reserved_bytes
        assert limit_mib is None or memory.max_reserved_bytes <= limit_mib * MIB


@pytest.mark.parametrize("conf", CONFS)
@given(steps=events)
def test_freeing_everything_and_emptying_the_cache_leaves_nothing(conf: str, steps: list[tuple[str, int]]) -> None:
    memory = new(conf)
    states = list(replay(memory, steps))
    for key in states[-1] if states else ():
        memory.free(key)
    assert (memory.requested_bytes, memory.allocated_bytes) == (0, 0)
    memory.empty_cache()
    assert memory.reserved_bytes == 0


@pytest.mark.parametrize("conf", CONFS[:-1])  # the last one collects garbage by the size of the device
@given(steps=events)
def test_a_device_as_large_as_the_peak_never_needs_a_retry(conf: str, steps: list[tuple[str, int]]) -> None:
    free_run = new(conf)
    for _ in replay(free_run, steps):
        pass
    peak = free_run.max_reserved_bytes
    limited = CachingAllocator(parse_alloc_conf(conf), limit_bytes=peak)
    for _ in replay(limited, steps):
        pass
    assert limited.num_retries == 0
    assert limited.max_reserved_bytes == peak
    assert limited.reserved_bytes == free_run.reserved_bytes
    assert limited.max_allocated_bytes == free_run.max_allocated_bytes
