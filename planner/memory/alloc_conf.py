"""PYTORCH_ALLOC_CONF, read as PyTorch reads it, keeping what changes how much memory is reserved.

Keys, defaults and limits are those of ``c10/core/AllocatorConfig.{h,cpp}`` (``AcceleratorAllocatorConfig``) and
``c10/cuda/CUDAAllocatorConfig.h`` (``CUDAAllocatorConfig::getKeys``), PyTorch 2.13. "MB" there means MiB.

We are stricter than PyTorch where it guesses: it reads ``max_split_size_mb:100abc`` as 100 and ``:-1`` as unlimited.
"""

import re
from typing import Final, TypeAlias

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.units import MIB
from vramplan.planner.values import Value

MIN_LARGE_ALLOC_BYTES: Final = 10 * MIB
"""kMinLargeAlloc, c10/core/AllocatorConfig.h: from here on a request gets a segment of its own size."""
NUM_ROUNDUP_INTERVALS: Final = 16
"""kRoundUpPowerOfTwoIntervals, c10/core/AllocatorConfig.cpp: one interval per power of two, from 1 MiB to 64 GiB."""

INERT_KEYS: Final = frozenset(
    {
        "graph_capture_record_stream_reuse",
        "pinned_free_catch_all",
        "pinned_max_cached_size_mb",
        "pinned_max_round_threshold_mb",
        "pinned_num_register_threads",
        "pinned_reserve_segment_size_mb",
        "pinned_use_background_threads",
        "pinned_use_cuda_host_register",
        "pinned_use_hip_host_register",
        "release_lock_on_cudamalloc",
        "release_lock_on_hipmalloc",
    }
)
"""Host memory, locking and graph capture: known to PyTorch, no effect on what one stream reserves on the device."""

_DOCS = "https://docs.pytorch.org/docs/stable/notes/cuda.html#memory-management"
_ITEM = re.compile(r"([^,:\[\]]+):(\[[^\[\]]*\]|[^,:\[\]]+)(?:,|$)")
_Values: TypeAlias = dict[str, object]


class AllocConf(Value):
    """The allocator's settings; the defaults are PyTorch's own.

    ``roundup_power2_divisions`` is empty (off) or has one entry per interval, the first for sizes below 2 MiB, the
    last from 32 GiB up; 0 and 1 mean 512 B rounding. ``garbage_collection_threshold`` acts only below a
    ``per_process_memory_fraction`` under 1 (``set_fraction`` / ``allowed_memory_maximum`` in the source).
    """

    expandable_segments: bool = False
    large_segment_size_bytes: int = 20 * MIB
    max_split_size_bytes: int | None = None
    max_non_split_rounding_bytes: int | None = None
    """None: ``large_segment_size_bytes``."""
    roundup_power2_divisions: tuple[int, ...] = ()
    garbage_collection_threshold: float | None = None
    per_process_memory_fraction: float = 1.0


def parse_alloc_conf(text: str) -> AllocConf:
    """Read the text of PYTORCH_ALLOC_CONF (or PYTORCH_CUDA_ALLOC_CONF); an empty text gives the defaults.

    Raises:
        UsageError: not ``key:value,key:value``, a key PyTorch does not know, or a value it refuses.
        UnsupportedError: a setting that replaces this allocator (``backend:cudaMallocAsync``) or its retry.

    >>> parse_alloc_conf("expandable_segments:True").expandable_segments
    True
    >>> parse_alloc_conf("max_split_size_mb:128").max_split_size_bytes
    134217728
    """
    items = _split(text)
    values: _Values = {}
    segment_mb = 20
    if "large_segment_size_mb" in items:  # read first, as PyTorch does: two other limits depend on it
        segment_mb = _whole_number("large_segment_size_mb", items.pop("large_segment_size_mb"))
        if segment_mb * MIB <= MIN_LARGE_ALLOC_BYTES:
            raise _bad("large_segment_size_mb", str(segment_mb), "more than 10")
        values["large_segment_size_bytes"] = segment_mb * MIB
    for key, value in items.items():
        values |= _read(key, value, segment_mb)
    return AllocConf.model_validate(values)


def _read(key: str, value: str, segment_mb: int) -> _Values:
    """The AllocConf fields that one setting gives."""
    match key:
        case "expandable_segments":
            return {key: _true_or_false(key, value)}
        case "max_split_size_mb" | "max_non_split_rounding_mb":
            megabytes = _whole_number(key, value)
            if megabytes < segment_mb:
                raise _bad(key, value, f"at least {segment_mb}, the size of a large segment in MiB")
            return {key.removesuffix("_mb") + "_bytes": megabytes * MIB}
        case "roundup_power2_divisions":
            return {key: _roundup_divisions(value)}
        case "garbage_collection_threshold":
            threshold = _number(key, value)
            if not 0.0 < threshold < 1.0:
                raise _bad(key, value, "between 0 and 1, exclusive")
            return {key: threshold}
        case "per_process_memory_fraction":
            fraction = _number(key, value)
            if not 0.0 <= fraction <= 1.0:
                raise _bad(key, value, "between 0 and 1")
            return {key: fraction}
        case "backend" if value != "native":
            raise UnsupportedError(
                f"backend {value!r} replaces PyTorch's caching allocator; what it reserves is not modelled",
                remedy="use backend:native",
            )
        case "throw_on_cudamalloc_oom" if _true_or_false(key, value):
            raise UnsupportedError(
                "throw_on_cudamalloc_oom:True fails before the cache is flushed; that is not modelled",
                remedy="leave it out",
            )
    if key in INERT_KEYS or key in ("backend", "throw_on_cudamalloc_oom"):
        return {}
    raise UsageError(
        f"PyTorch's allocator has no setting {key!r}",
        remedy=f"the settings are described at {_DOCS}",
    )


def _roundup_divisions(value: str) -> tuple[int, ...]:
    """One number for all sizes, or ``[64:8,128:4,>:1]``: sizes from 64 MiB to under 128 MiB use 8, and so on.

    The first interval's number also holds below it and ``>`` holds above the last one named; intervals skipped
    between two named ones stay off. That is the source's reading (``parseRoundUpPower2Divisions``); PyTorch's prose
    documentation calls the number the upper end of its interval.
    """
    key = "roundup_power2_divisions"
    if not value.startswith("["):
        return (_power_of_two(key, value),) * NUM_ROUNDUP_INTERVALS
    divisions = [0] * NUM_ROUNDUP_INTERVALS
    first, last = True, 0
    for pair in filter(None, value.strip("[]").split(",")):
        interval, colon, number = pair.partition(":")
        if not colon:
            raise _bad(key, pair, "a list such as [256:1,512:2,1024:4,>:8]")
        count = 0 if number == "0" else _power_of_two(key, number)
        if interval == ">":
            divisions[last + 1 :] = [count] * (NUM_ROUNDUP_INTERVALS - last - 1)
            continue
        index = min(_power_of_two(key, interval).bit_length() - 1, NUM_ROUNDUP_INTERVALS - 1)
        if first:
            divisions[:index] = [count] * index
        divisions[index] = count
        first, last = False, index
    return tuple(divisions)


def _split(text: str) -> dict[str, str]:
    """``key:value`` items in order; white space is ignored, a trailing comma allowed, a key's last value wins."""
    compact = "".join(text.split())
    items: dict[str, str] = {}
    position = 0
    while position < len(compact):
        match = _ITEM.match(compact, position)
        if match is None:
            raise UsageError(
                f"cannot read the allocator setting {compact[position:]!r}",
                remedy="write key:value pairs with commas, for example expandable_segments:True,max_split_size_mb:128",
            )
        items[match[1]] = match[2]
        position = match.end()
    return items


def _true_or_false(key: str, value: str) -> bool:
    if value not in ("True", "False"):
        raise _bad(key, value, "True or False, capitalised")
    return value == "True"


def _whole_number(key: str, value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", value):
        raise _bad(key, value, "a whole number")
    return int(value)


def _number(key: str, value: str) -> float:
    if not re.fullmatch(r"[0-9]+(\.[0-9]*)?|\.[0-9]+", value):
        raise _bad(key, value, "a number")
    return float(value)


def _power_of_two(key: str, value: str) -> int:
    number = _whole_number(key, value)
    if number.bit_count() != 1:
        raise _bad(key, value, "made of powers of two")
    return number


def _bad(key: str, value: str, expected: str) -> UsageError:
    return UsageError(
        f"the allocator setting {key} cannot be {value!r}: it must be {expected}",
        remedy=f"the settings are described at {_DOCS}",
    )
