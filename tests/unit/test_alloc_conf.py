"""PYTORCH_ALLOC_CONF: what PyTorch's own tests assert, and what torch itself accepts and refuses."""

import pytest

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.memory.alloc_conf import AllocConf, parse_alloc_conf

MIB = 2**20

REFUSED_BY_TORCH = [
    "expandable_segments:true",
    "max_split_size_mb:10",
    "max_split_size_mb:2",
    "max_split_size_mb",
    "max_split_size_mb=100",
    "max_split_size_mb:20,large_segment_size_mb:25",
    "large_segment_size_mb:10",
    "large_segment_size_mb:",
    "max_non_split_rounding_mb:10",
    "roundup_power2_divisions:3",
    "roundup_power2_divisions:0",
    "roundup_power2_divisions:[65:8,>:1]",
    "roundup_power2_divisions:[64:3]",
    "roundup_power2_divisions:[64:8",
    "garbage_collection_threshold:0",
    "garbage_collection_threshold:1.2",
]
ACCEPTED_BY_TORCH = [
    "",
    "expandable_segments:False,",
    " max_split_size_mb : 40 , expandable_segments : False",
    "large_segment_size_mb:11",
    "large_segment_size_mb:15,max_split_size_mb:20,max_non_split_rounding_mb:40,garbage_collection_threshold:0.8",
    "roundup_power2_divisions:[64:0]",
    "roundup_power2_divisions:[]",
    "roundup_power2_divisions:[>:4]",
    "pinned_use_background_threads:True",
    "pinned_max_round_threshold_mb:1",
]


def divisions(conf: AllocConf, size_mib: int) -> int:
    """The divisions for a size that is a power of two, 1 MiB being the first interval."""
    return conf.roundup_power2_divisions[size_mib.bit_length() - 1]


def test_an_empty_text_gives_torchs_defaults() -> None:
    conf = parse_alloc_conf("")
    assert conf == AllocConf()
    assert conf.large_segment_size_bytes == 20_971_520
    assert conf.max_split_size_bytes is None
    assert not conf.expandable_segments


def test_the_settings_of_torchs_allocator_config_test_are_read_the_same() -> None:
    # c10/test/core/AllocatorConfig_test.cpp, allocator_config_test
    conf = parse_alloc_conf(
        "max_split_size_mb:40,max_non_split_rounding_mb:30,garbage_collection_threshold:0.5,"
        "roundup_power2_divisions:[64:8,128:2,256:4,512:2,1024:4,>:1],expandable_segments:True,"
        "pinned_use_background_threads:True"
    )
    assert conf.max_split_size_bytes == 40 * MIB
    assert conf.max_non_split_rounding_bytes == 30 * MIB
    assert conf.garbage_collection_threshold == 0.5
    assert conf.expandable_segments
    expected = {32: 8, 64: 8, 128: 2, 256: 4, 512: 2, 1024: 4, 2048: 1, 4096: 1, 8192: 1}
    assert {size: divisions(conf, size) for size in expected} == expected


def test_intervals_left_out_of_the_list_stay_off() -> None:
    # the same test's second list: 1024 is skipped between 512 and 2048
    conf = parse_alloc_conf("roundup_power2_divisions:[128:8,256:16,512:1,2048:8,>:2]")
    expected = {64: 8, 128: 8, 256: 16, 512: 1, 1024: 0, 2048: 8, 4096: 2}
    assert {size: divisions(conf, size) for size in expected} == expected


def test_an_interval_above_the_last_is_the_last() -> None:
    conf = parse_alloc_conf(f"roundup_power2_divisions:[64:2,{2**16}:8]")  # 64 GiB; the last of 16 begins at 32 GiB
    assert (len(conf.roundup_power2_divisions), conf.roundup_power2_divisions[-1]) == (16, 8)


def test_what_follows_the_rest_of_a_list_still_counts() -> None:
    """``>`` fills all above the last named interval, and the parser goes on: what is named after it is set again."""
    conf = parse_alloc_conf("roundup_power2_divisions:[64:8,>:1,256:4]")
    assert [divisions(conf, size_mib) for size_mib in (64, 128, 256, 512)] == [8, 1, 4, 1]


def test_one_number_holds_for_all_intervals() -> None:
    assert parse_alloc_conf("roundup_power2_divisions:4").roundup_power2_divisions == (4,) * 16


@pytest.mark.parametrize("text", REFUSED_BY_TORCH)
def test_what_torch_refuses_is_refused_with_a_remedy(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        parse_alloc_conf(text)
    assert refusal.value.remedy


@pytest.mark.parametrize("text", ACCEPTED_BY_TORCH)
def test_what_torch_accepts_is_accepted(text: str) -> None:
    assert isinstance(parse_alloc_conf(text), AllocConf)


@pytest.mark.train
def test_the_lists_above_say_what_the_installed_torch_does() -> None:
    torch = pytest.importorskip("torch")
    configure = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
    if configure is None:
        pytest.skip("this torch sets allocator settings only with CUDA")
    try:
        for text in ACCEPTED_BY_TORCH:
            configure(text)
            configure("large_segment_size_mb:20")  # it outlives a call that does not name it
        for text in REFUSED_BY_TORCH:
            with pytest.raises((ValueError, RuntimeError)):
                configure(text)
            configure("large_segment_size_mb:20")
    finally:
        configure("large_segment_size_mb:20,expandable_segments:False")


@pytest.mark.parametrize(
    "text", ["foo:123", "roundup_bypass_threshold_mb:1", "max_split_size_mb:-1", "max_split_size_mb:100abc", "::", "[]"]
)
def test_unknown_keys_and_values_torch_would_guess_at_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_alloc_conf(text)


@pytest.mark.parametrize("text", ["backend:cudaMallocAsync", "throw_on_cudamalloc_oom:True"])
def test_settings_that_replace_the_allocator_are_refused_by_name(text: str) -> None:
    with pytest.raises(UnsupportedError, match=text.split(":")[0]):
        parse_alloc_conf(text)


@pytest.mark.parametrize("text", ["backend:native", "release_lock_on_cudamalloc:True", "throw_on_cudamalloc_oom:False"])
def test_settings_without_effect_on_reserved_memory_change_nothing(text: str) -> None:
    assert parse_alloc_conf(text) == AllocConf()


def test_escape_sequences_in_a_bad_setting_are_inert() -> None:
    for text in ("backend:\x1b[31m", "\x1b[31mkey:1", "expandable_segments:\x1b]0;x"):
        with pytest.raises(UsageError) as refusal:
            parse_alloc_conf(text)
        assert "\x1b" not in str(refusal.value)
