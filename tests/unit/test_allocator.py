"""The allocator replay against PyTorch's rules worked by hand, PyTorch's own tests, and a recorded GPU run."""

import re
from pathlib import Path

import pytest

from vramplan.planner.memory.allocator import CachingAllocator, OutOfDeviceMemory, parse_alloc_conf

MIB = 2**20
PAGE = Path(__file__).parents[2] / "docs" / "allocator.md"


def allocator(conf: str = "", *, limit_mib: int | None = None, device_mib: int | None = None) -> CachingAllocator:
    return CachingAllocator(
        parse_alloc_conf(conf),
        limit_bytes=None if limit_mib is None else limit_mib * MIB,
        device_bytes=None if device_mib is None else device_mib * MIB,
    )


def in_mib(memory: CachingAllocator) -> tuple[float, float]:
    return memory.allocated_bytes / MIB, memory.reserved_bytes / MIB


def test_one_byte_takes_a_512_byte_block_of_a_2_mib_segment() -> None:
    memory = allocator()
    memory.malloc("x", 1)
    assert (memory.requested_bytes, memory.allocated_bytes, memory.reserved_bytes) == (1, 512, 2 * MIB)


def test_a_mebibyte_is_small_and_one_byte_more_is_large() -> None:
    memory = allocator()
    memory.malloc("small", 1 * MIB)
    assert in_mib(memory) == (1, 2)
    memory.malloc("large", 1 * MIB + 1)
    assert memory.reserved_bytes == 22 * MIB
    assert memory.allocated_bytes == 2 * MIB + 512


@pytest.mark.parametrize(
    ("size_bytes", "reserved_mib"),
    [(10 * MIB - 1, 10), (10 * MIB - 512, 20), (10 * MIB, 10), (10 * MIB + 1, 12), (11 * MIB, 12), (13 * MIB, 14)],
)
def test_from_10_mib_a_segment_is_the_request_rounded_up_to_2_mib(size_bytes: int, reserved_mib: int) -> None:
    # 10 MiB - 1 rounds to 10 MiB first; 10 MiB - 512 stays below and gets the 20 MiB kind.
    memory = allocator()
    memory.malloc("x", size_bytes)
    assert memory.reserved_bytes == reserved_mib * MIB


def test_a_tail_of_1_mib_is_not_cut_and_counts_as_allocated() -> None:
    memory = allocator()
    memory.malloc("x", 11 * MIB)
    assert in_mib(memory) == (12, 12)
    assert memory.max_allocated_bytes == 12 * MIB
    assert memory.requested_bytes == 11 * MIB


def test_a_tail_of_more_than_1_mib_is_cut_and_reused() -> None:
    memory = allocator()
    memory.malloc("x", 11 * MIB - 512)
    assert memory.allocated_bytes == 11 * MIB - 512
    memory.malloc("y", 1 * MIB + 512)  # exactly the tail
    assert in_mib(memory) == (12, 12)


def test_a_small_segment_is_cut_down_to_512_bytes() -> None:
    memory = allocator()
    memory.malloc("x", 1 * MIB)
    memory.malloc("y", 1 * MIB - 512)
    memory.malloc("z", 1)
    assert in_mib(memory) == (2, 2)


def test_an_empty_tensor_takes_nothing() -> None:
    memory = allocator()
    memory.malloc("empty", 0)
    memory.free("empty")
    assert (memory.allocated_bytes, memory.reserved_bytes) == (0, 0)


def test_small_requests_do_not_use_large_free_blocks() -> None:
    memory = allocator()
    memory.malloc("large", 30 * MIB)
    memory.free("large")
    memory.malloc("small", 512)
    assert memory.reserved_bytes == 32 * MIB


def test_the_smallest_free_block_that_fits_is_taken() -> None:
    memory = allocator()
    for size in (16, 12, 14):
        memory.malloc(size, size * MIB)
    for size in (16, 12, 14):
        memory.free(size)
    memory.malloc("x", 13 * MIB)  # the 14 MiB one, whole: a 1 MiB tail is not cut
    memory.malloc("y", 16 * MIB)  # still there
    memory.malloc("z", 12 * MIB)  # still there
    assert in_mib(memory) == (42, 42)


def test_of_equal_free_blocks_the_lowest_is_taken() -> None:
    memory = allocator()
    for name in "abcde":
        memory.malloc(name, 4 * MIB)  # one 20 MiB segment, full
    memory.free("a")
    memory.free("e")
    memory.malloc("x", 4 * MIB)  # at a's place, so that d and e can join but a and b cannot
    memory.free("d")
    memory.malloc("y", 8 * MIB)
    assert in_mib(memory) == (20, 20)


def test_free_neighbours_on_both_sides_become_one_block() -> None:
    memory = allocator()
    for name in "abcde":
        memory.malloc(name, 4 * MIB)
    for name in "acb":
        memory.free(name)
    memory.malloc("x", 12 * MIB)
    assert in_mib(memory) == (20, 20)


def test_freed_memory_stays_reserved_until_the_cache_is_emptied() -> None:
    memory = allocator()
    memory.malloc("x", 30 * MIB)
    memory.free("x")
    assert in_mib(memory) == (0, 30)
    memory.empty_cache()
    assert in_mib(memory) == (0, 0)
    assert memory.max_reserved_bytes == 30 * MIB
    memory.reset_peak()
    assert (memory.max_allocated_bytes, memory.max_reserved_bytes) == (0, 0)


def test_a_refused_request_flushes_whole_free_segments_and_tries_again() -> None:
    memory = allocator(limit_mib=40)
    memory.malloc("x", 30 * MIB)
    memory.free("x")
    memory.malloc("y", 32 * MIB)  # 30 + 32 is over 40; without the cached 30 it fits
    assert in_mib(memory) == (32, 32)
    assert memory.num_retries == 1
    assert memory.max_reserved_bytes == 32 * MIB


def test_a_segment_partly_in_use_cannot_be_flushed() -> None:
    memory = allocator(limit_mib=40)
    memory.malloc("x", 5 * MIB)  # holds a 20 MiB segment of which 15 are free
    with pytest.raises(OutOfDeviceMemory) as refusal:
        memory.malloc("y", 24 * MIB)
    assert refusal.value.size_bytes == 24 * MIB
    assert refusal.value.allocated_bytes == 5 * MIB
    assert refusal.value.reserved_bytes == 20 * MIB
    assert memory.num_retries == 1
    memory.malloc("y", 20 * MIB)  # the key is free, the allocator usable
    assert in_mib(memory) == (25, 40)


def test_an_exbibyte_is_refused_without_a_flush() -> None:
    memory = allocator()
    memory.malloc("x", 30 * MIB)
    memory.free("x")
    with pytest.raises(OutOfDeviceMemory):
        memory.malloc("y", 2**60)
    assert (memory.num_retries, memory.reserved_bytes) == (0, 30 * MIB)
    limited = allocator(limit_mib=100)
    limited.malloc("x", 30 * MIB)
    limited.free("x")
    with pytest.raises(OutOfDeviceMemory):
        limited.malloc("y", 2**60 - MIB)
    assert (limited.num_retries, limited.reserved_bytes) == (1, 0)


def test_a_key_in_use_an_unknown_key_and_a_negative_size_are_refused() -> None:
    memory = allocator()
    memory.malloc("x", 1)
    with pytest.raises(ValueError, match="allocated already"):
        memory.malloc("x", 1)
    with pytest.raises(ValueError, match="negative"):
        memory.malloc("y", -1)
    with pytest.raises(KeyError):
        memory.free("y")


def test_an_expandable_segment_grows_by_20_mib_pages_and_is_cut_finely() -> None:
    memory = allocator("expandable_segments:True")
    memory.malloc("a", 30 * MIB)
    assert in_mib(memory) == (30, 40)
    memory.malloc("b", 11 * MIB)  # 10 free + one page more; no tail is kept, unlike in a segment of its own
    assert in_mib(memory) == (41, 60)
    memory.malloc("c", 1 * MIB)  # small: its own segment, 2 MiB pages
    assert in_mib(memory) == (42, 62)


def test_flushing_an_expandable_segment_unmaps_only_whole_free_pages() -> None:
    memory = allocator("expandable_segments:True")
    memory.malloc("a", 50 * MIB)  # pages 0, 1 and half of 2
    memory.malloc("b", 5 * MIB)  # in page 2
    memory.free("a")
    memory.empty_cache()
    assert in_mib(memory) == (5, 20)
    memory.malloc("c", 48 * MIB)  # the two pages are mapped again and join the 10 MiB left of page 2
    assert in_mib(memory) == (53, 60)


@pytest.mark.parametrize(("conf", "reserved_mib"), [("", 292), ("expandable_segments:True", 80)])
def test_growing_requests_strand_a_segment_each_unless_segments_expand(conf: str, reserved_mib: int) -> None:
    # Default: no old segment fits the next, larger request: 20 + 24 + ... + 48 = 272, and 20 for the 2 MiB ones.
    # Expandable: the free stretch at the end grows; the last request needs 48 of 80.
    memory = allocator(conf)
    for step in range(8):
        memory.malloc("growing", (20 + 4 * step) * MIB)
        memory.malloc(step, 2 * MIB)
        memory.free("growing")
    assert in_mib(memory) == (16, reserved_mib)


def test_blocks_from_max_split_size_on_serve_only_requests_of_about_their_size() -> None:
    memory = allocator("max_split_size_mb:128")
    memory.malloc("x", 200 * MIB)
    memory.free("x")
    memory.malloc("below", 100 * MIB)  # under 128: may not have the 200 MiB block
    assert memory.reserved_bytes == 300 * MIB
    memory.malloc("far", 150 * MIB)  # 200 is not under 150 + 20
    assert memory.reserved_bytes == 450 * MIB
    memory.malloc("near", 190 * MIB)  # gets it whole: 10 MiB over are not cut
    assert in_mib(memory) == (450, 450)


def test_with_max_split_size_an_oversize_block_is_released_before_the_whole_cache() -> None:
    memory = allocator("max_split_size_mb:128", limit_mib=300)
    memory.malloc("oversize", 200 * MIB)
    memory.malloc("other", 60 * MIB)
    memory.free("oversize")
    memory.free("other")
    memory.malloc("x", 120 * MIB)
    assert in_mib(memory) == (120, 180)  # the 60 MiB are still cached
    assert memory.num_retries == 0


def test_of_oversize_blocks_too_small_alone_the_largest_go_until_that_is_enough() -> None:
    memory = allocator("max_split_size_mb:100", limit_mib=430)
    for size in (110, 120, 190):
        memory.malloc(size, size * MIB)
    for size in (110, 120, 190):
        memory.free(size)
    memory.malloc("x", 300 * MIB)  # 190 and 120 are enough
    assert in_mib(memory) == (300, 410)
    assert memory.num_retries == 0


def test_garbage_collection_releases_the_segments_longest_unused() -> None:
    # 80 of 100 MiB allowed. Ages at the fourth search: a and b 2, c 1; average 5/3: a and b go, c stays.
    memory = allocator("garbage_collection_threshold:0.8,per_process_memory_fraction:0.5", device_mib=200)
    memory.malloc("a", 30 * MIB)
    memory.malloc("b", 30 * MIB)
    memory.free("a")
    memory.free("b")
    memory.malloc("c", 40 * MIB)
    memory.free("c")
    assert memory.reserved_bytes == 100 * MIB
    memory.malloc("d", 44 * MIB)
    assert in_mib(memory) == (44, 84)
    assert memory.num_retries == 0


def test_garbage_collection_needs_a_memory_fraction() -> None:
    memory = allocator("garbage_collection_threshold:0.1", limit_mib=1000, device_mib=1000)
    for size in (30, 40, 50):
        memory.malloc(size, size * MIB)
        memory.free(size)
    assert memory.reserved_bytes == 120 * MIB


def test_pages_of_expandable_segments_are_no_garbage() -> None:
    """PyTorch's garbage_collect_cached_blocks releases whole segments, and an expandable one is none that it knows."""
    conf = "expandable_segments:True,garbage_collection_threshold:0.1,per_process_memory_fraction:0.5"
    memory = allocator(conf, device_mib=400)
    memory.malloc("a", 60 * MIB)
    memory.free("a")
    memory.malloc("b", 100 * MIB)
    assert in_mib(memory) == (100, 100)  # the pages of a, and two more
    assert memory.num_retries == 0


def test_a_memory_fraction_caps_what_is_reserved() -> None:
    memory = allocator("per_process_memory_fraction:0.5", device_mib=100)
    memory.malloc("x", 40 * MIB)
    with pytest.raises(OutOfDeviceMemory):
        memory.malloc("y", 12 * MIB)


@pytest.mark.parametrize(
    ("conf", "request_mib", "allocated_mib"),
    [
        ("", 84, 84),
        ("roundup_power2_divisions:4", 84, 96),
        ("roundup_power2_divisions:[64:8,128:2,256:2,512:2,1024:1,>:1]", 84, 88),
        ("roundup_power2_divisions:[64:8,128:2,256:2,512:2,1024:1,>:1]", 400, 512),
    ],
)
def test_rounding_to_divisions_matches_torchs_test_allocator_settings(
    conf: str, request_mib: int, allocated_mib: int
) -> None:
    # test/test_cuda.py, test_allocator_settings: 21 and 100 Mi floats; steps from one power of two to the next.
    memory = allocator(conf)
    memory.malloc("x", request_mib * MIB)
    assert memory.allocated_bytes == allocated_mib * MIB


def test_a_recorded_gpu_run_is_reproduced_to_the_byte_through_its_cache_flush() -> None:
    """torch 2.12.0 on a 16 GiB RX 9070 XT: pytorch/pytorch#193400 and ROCm/legacy-rocm-build#6603.

    A 64 MiB tensor, then cycles of 91 and 45.5 MiB and a 2 MiB one that stays; the two large ones are freed.
    Both settings together keep the freed 136.5 MiB from being used again, so that the card fills up.
    """
    memory = allocator("max_split_size_mb:128,expandable_segments:True", limit_mib=16_060)
    memory.malloc("canary", 64 * MIB)
    seen = {}
    for cycle in range(116):
        memory.malloc("a", 91 * MIB)
        memory.malloc("b", 91 * MIB // 2)
        memory.malloc(cycle, 2 * MIB)
        memory.free("a")
        memory.free("b")
        seen[cycle] = in_mib(memory)
    assert [seen[cycle] for cycle in (0, 20, 40, 60, 80, 100, 115)] == [
        (66, 220),
        (106, 2_980),
        (146, 5_760),
        (186, 8_520),
        (226, 11_300),
        (266, 14_060),
        (296, 2_680),
    ]
    assert memory.max_reserved_bytes == 16_000 * MIB
    assert memory.num_retries == 1


def test_the_worked_example_of_the_documentation_is_true() -> None:
    rows = re.findall(
        r"^\| (malloc|free|empty_cache) ?(\w?) ?(\d*) \| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text("utf-8"), re.M
    )
    assert len(rows) == 8
    memory = allocator()
    for kind, name, size_mib, *expected in rows:
        if kind == "malloc":
            memory.malloc(name, int(size_mib) * MIB)
        elif kind == "free":
            memory.free(name)
        else:
            memory.empty_cache()
        assert [memory.requested_bytes, memory.allocated_bytes, memory.reserved_bytes] == [
            int(number) * MIB for number in expected
        ]


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_the_worked_example_does_not_fit_into_48_mib(conf: str) -> None:
    memory = allocator(conf, limit_mib=48)
    for name, size_mib in (("a", 3), ("b", 11), ("c", 11)):
        memory.malloc(name, size_mib * MIB)
    memory.free("b")
    with pytest.raises(OutOfDeviceMemory):
        memory.malloc("d", 18 * MIB)
