"""PyTorch's CUDA caching allocator, replayed: from tensor allocations and frees to reserved memory.

A tensor gets a *block*; blocks are cut from *segments* taken from the driver. ``allocated_bytes`` is what blocks in
use occupy, ``reserved_bytes`` what segments occupy, and a training run dies of the second. One device, one stream.

The rules are those of ``DeviceCachingAllocator`` in ``c10/cuda/CUDACachingAllocator.cpp``, read in a copy from between
PyTorch 2.11 and 2.13 and found the same in one from before 2.8, where a large segment was always 20 MiB; constants
are those of ``c10/core/AllocatorConfig.h`` in 2.13. Docstrings name the function that each method mirrors.

Two things are ours. Addresses only ever grow, where the driver may hand an old one out again: it decides between
free blocks of equal size. And an expandable segment never runs out of address space; PyTorch reserves 9/8 of the
device's memory for it.
"""

from collections.abc import Hashable
from typing import Final

from vramplan.planner.memory.alloc_conf import MIN_LARGE_ALLOC_BYTES, AllocConf, parse_alloc_conf
from vramplan.planner.memory.blocks import Block, BlockPool
from vramplan.planner.memory.segments import DeviceMemory, OutOfDeviceMemory, grow, least_growable, unmap
from vramplan.planner.units import MIB

__all__ = ["AllocConf", "CachingAllocator", "OutOfDeviceMemory", "parse_alloc_conf"]

MIN_BLOCK_BYTES: Final = 512
"""kMinBlockSize, c10/core/AllocatorConfig.h: every size is rounded up to a multiple of it."""
SMALL_SIZE_BYTES: Final = 1 * MIB
"""kSmallSize: the largest request that goes to the small pool."""
SMALL_BUFFER_BYTES: Final = 2 * MIB
"""kSmallBuffer: the size of a small segment."""
ROUND_LARGE_BYTES: Final = 2 * MIB
"""kRoundLarge: segments of their own (from kMinLargeAlloc, 10 MiB) are rounded up to a multiple of it."""
MAX_REQUEST_BYTES: Final = 2**60
"""one_exa_bytes, NativeCachingAllocator::allocate: from 1 EiB on it is out of memory without trying."""

_UNLIMITED: Final = 2**64 - 1  # std::numeric_limits<size_t>::max(), the default of max_split_size
_LARGE_BASE_ADDRESS: Final = 2**62


class CachingAllocator:
    """One device's allocator. Sizes are bytes; a key names one live tensor.

    Args:
        conf: the settings; PyTorch's defaults if left out.
        limit_bytes: what the driver can give to segments (free memory when the process starts, less its context);
            None: without end.
        device_bytes: the device's total memory, of which ``per_process_memory_fraction`` is a part; None: the
            fraction is not applied.

    >>> allocator = CachingAllocator()
    >>> allocator.malloc("hidden", 11 * 2**20)
    >>> allocator.allocated_bytes // 2**20, allocator.reserved_bytes // 2**20
    (12, 12)
    """

    def __init__(
        self, conf: AllocConf | None = None, *, limit_bytes: int | None = None, device_bytes: int | None = None
    ) -> None:
        self.conf = conf = conf or AllocConf()
        self._expandable = conf.expandable_segments
        self._roundup = conf.roundup_power2_divisions
        self._device = DeviceMemory(limit_bytes)
        self._allowed_bytes: int | None = None
        if device_bytes is not None and conf.per_process_memory_fraction < 1.0:
            self._allowed_bytes = int(conf.per_process_memory_fraction * device_bytes)
        self._garbage_above_bytes: int | None = None
        if self._allowed_bytes is not None and conf.garbage_collection_threshold is not None:
            self._garbage_above_bytes = int(conf.garbage_collection_threshold * self._allowed_bytes)
        self._max_split_bytes = conf.max_split_size_bytes or _UNLIMITED
        self._max_rounding_bytes = conf.max_non_split_rounding_bytes or conf.large_segment_size_bytes
        small = {"split_from_bytes": MIN_BLOCK_BYTES, "split_below_bytes": _UNLIMITED}
        self._small = BlockPool(base_address=0, page_bytes=SMALL_BUFFER_BYTES, **small)
        # should_split: an expandable segment is cut as finely as a small one, whatever max_split_size says
        self._large = BlockPool(
            base_address=_LARGE_BASE_ADDRESS,
            page_bytes=conf.large_segment_size_bytes,
            split_from_bytes=MIN_BLOCK_BYTES if conf.expandable_segments else SMALL_SIZE_BYTES + 1,
            split_below_bytes=_UNLIMITED if conf.expandable_segments else self._max_split_bytes,
        )
        self.takes_first = self._garbage_above_bytes is None and self._max_split_bytes == _UNLIMITED
        """Whether a request is served by the first cached block that is large enough, whatever happened before."""
        self._live: dict[Hashable, Block | None] = {}
        self._next_address = 0
        self._allocated = self._requested = self._max_allocated = 0
        self._num_retries = 0

    @property
    def pools(self) -> tuple[BlockPool, BlockPool]:
        """The free blocks of the small and of the large size class."""
        return self._small, self._large

    @property
    def limit_bytes(self) -> int | None:
        """What the driver can give at most; None: without end."""
        return self._device.limit_bytes

    @property
    def allocated_bytes(self) -> int:
        """Bytes of the blocks in use, each whole: rounding and an uncut tail included (memory_allocated)."""
        return self._allocated

    @property
    def reserved_bytes(self) -> int:
        """Bytes held from the driver, used or cached (memory_reserved)."""
        return self._device.reserved_bytes

    @property
    def requested_bytes(self) -> int:
        """Bytes the live tensors asked for (memory_stats: requested_bytes.all.current)."""
        return self._requested

    @property
    def max_allocated_bytes(self) -> int:
        """The highest ``allocated_bytes`` since the start or ``reset_peak`` (max_memory_allocated)."""
        return self._max_allocated

    @property
    def max_reserved_bytes(self) -> int:
        """The highest ``reserved_bytes`` since the start or ``reset_peak`` (max_memory_reserved)."""
        return self._device.max_reserved_bytes

    @property
    def num_retries(self) -> int:
        """How often the whole cache was flushed because the driver refused (num_alloc_retries)."""
        return self._num_retries

    def malloc(self, key: Hashable, size_bytes: int) -> None:
        """Allocate a tensor's storage (``DeviceCachingAllocator::malloc``). An empty one takes no block.

        Raises:
            OutOfDeviceMemory: the driver has no room, also after a flush; nothing was allocated.
            ValueError: the key is in use, or the size is negative.
        """
        if key in self._live or size_bytes < 0:
            raise ValueError(f"{key!r} is allocated already" if size_bytes >= 0 else f"negative size for {key!r}")
        self._live[key] = self.take(size_bytes)

    def free(self, key: Hashable) -> None:
        """Give a tensor's block back to the cache, merged with its free neighbours (``free_block``).

        Raises:
            KeyError: no live tensor has this key.
        """
        self.give(self._live.pop(key))

    def take(self, size_bytes: int) -> Block | None:
        """``malloc`` for a caller that keeps the block itself: for replays of many thousand tensors.

        Raises:
            OutOfDeviceMemory: as ``malloc``.
        """
        if size_bytes >= MAX_REQUEST_BYTES:
            raise self._out_of_memory(size_bytes)
        if size_bytes == 0:
            return None
        rounded = self._rounded(size_bytes) if self._roundup else -(-size_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        pool = self._small if rounded <= SMALL_SIZE_BYTES else self._large
        index = self._cached_block(pool, rounded)
        block = self._new_block(pool, rounded, size_bytes) if index is None else pool.blocks[index]
        splits = block.size_bytes - rounded >= pool.split_from_bytes and rounded < pool.split_below_bytes
        if index is not None:
            block = pool.carve(index, rounded) if splits else pool.pop(index)
        elif splits:
            pool.insert(block.cut(rounded))
        block.allocated = True
        self._allocated += block.size_bytes
        block.requested_bytes = size_bytes
        self._requested += size_bytes
        if self._allocated > self._max_allocated:
            self._max_allocated = self._allocated
        return block

    def give(self, block: Block | None) -> None:
        """Give back what ``take`` gave."""
        if block is None:
            return
        self._allocated -= block.size_bytes
        self._requested -= block.requested_bytes
        block.allocated = False
        block.pool.free(block)

    def served_by(self, size_bytes: int) -> tuple[BlockPool, int]:
        """The pool that serves a request, and what it is rounded to."""
        rounded = self._rounded(size_bytes)
        return (self._small if rounded <= SMALL_SIZE_BYTES else self._large), rounded

    def carve(self, pool: BlockPool, size_bytes: int) -> Block:
        """Take the front of the largest free block, for a caller who knows that it is what ``take`` would do."""
        last = len(pool.blocks) - 1
        block = pool.carve(last, size_bytes) if pool.blocks[last].size_bytes > size_bytes else pool.pop(last)
        block.allocated = True
        block.requested_bytes = size_bytes
        self._requested += size_bytes
        self._allocated += size_bytes
        return block

    def empty_cache(self) -> None:
        """Give back to the driver what can be given (``release_cached_blocks``).

        Those are free segments in one piece; of an expandable segment, the free pages.
        """
        for pool in (self._large, self._small):
            if self._expandable:
                for block in tuple(pool.blocks):
                    unmap(block, self._device)
            else:
                for block in [block for block in pool.blocks if block.prev is None and block.next is None]:
                    self._release(block)

    def reset_peak(self) -> None:
        """Start both peaks again from now (reset_peak_memory_stats)."""
        self._max_allocated = self._allocated
        self._device.max_reserved_bytes = self._device.reserved_bytes

    def _rounded(self, size_bytes: int) -> int:
        """``round_size``: up to 512 B, or to a division of the power of two below."""
        per_interval = self._roundup
        if per_interval:
            power = size_bytes.bit_length() - 1
            divisions = per_interval[min(max(power - 20, 0), len(per_interval) - 1)]
            if divisions > 1 and size_bytes > MIN_BLOCK_BYTES * divisions:
                step = (1 << power) // divisions
                return -(-size_bytes // step) * step
        return -(-size_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES

    def _cached_block(self, pool: BlockPool, rounded: int) -> int | None:
        """``get_free_block``: the place of the smallest free block that fits, then of the lowest."""
        if self._garbage_above_bytes is not None:
            pool.num_searches += 1
        blocks = pool.blocks
        index = pool.first_of(rounded)
        if index == len(blocks):
            return None
        after = blocks[index].next
        if after is not None and not after.mapped:
            index = least_growable(pool, index)
        if self._max_split_bytes != _UNLIMITED:
            limit, size_bytes = self._max_split_bytes, blocks[index].size_bytes
            if rounded < limit <= size_bytes or (limit <= rounded and size_bytes >= rounded + self._max_rounding_bytes):
                return None
        return index

    def _new_block(self, pool: BlockPool, rounded: int, size_bytes: int) -> Block:
        """``malloc`` where no cached block fits: ask the driver; refused, release cached memory and ask again."""
        self._collect_garbage()
        block = self._from_driver(pool, rounded)
        if block is None and self._release_oversize(pool, rounded):
            block = self._from_driver(pool, rounded)
        if block is None:
            self.empty_cache()
            self._num_retries += 1
            block = self._from_driver(pool, rounded)
        if block is None:
            raise self._out_of_memory(size_bytes)
        return block

    def _out_of_memory(self, size_bytes: int) -> OutOfDeviceMemory:
        return OutOfDeviceMemory(size_bytes, reserved_bytes=self.reserved_bytes, allocated_bytes=self._allocated)

    def _from_driver(self, pool: BlockPool, rounded: int) -> Block | None:
        """``alloc_block``: a new segment, or a grown expandable one; None if the driver refuses."""
        segment_bytes = self._segment_bytes(rounded)
        if self._allowed_bytes is not None and self._device.reserved_bytes + segment_bytes > self._allowed_bytes:
            return None
        if self._expandable:
            return grow(pool, rounded, self._device)
        if not self._device.reserve(segment_bytes):
            return None
        block = Block(pool, self._next_address, segment_bytes)
        self._next_address += segment_bytes
        return block

    def _segment_bytes(self, rounded: int) -> int:
        """``get_allocation_size``."""
        if rounded <= SMALL_SIZE_BYTES:
            return SMALL_BUFFER_BYTES
        if rounded < MIN_LARGE_ALLOC_BYTES:
            return self.conf.large_segment_size_bytes
        return -(-rounded // ROUND_LARGE_BYTES) * ROUND_LARGE_BYTES

    def _release(self, block: Block) -> None:
        """``release_block``: cudaFree of a free segment in one piece."""
        block.pool.remove(block)
        self._device.release(block.size_bytes)

    def _release_oversize(self, pool: BlockPool, rounded: int) -> bool:
        """``release_available_cached_blocks``: only with max_split_size, whose oversize blocks serve few requests.

        One large enough for the request, else the largest ones until enough is given back; False if it is not.
        """
        if self._max_split_bytes == _UNLIMITED or self._expandable:
            return False
        needed = max(rounded, self._max_split_bytes)
        index = pool.first_of(needed)
        if index < len(pool.blocks):
            self._release(pool.blocks[index])
            return True
        released = 0
        while released < needed and pool.blocks and pool.blocks[-1].size_bytes >= self._max_split_bytes:
            released += pool.blocks[-1].size_bytes
            self._release(pool.blocks[-1])
        return released >= needed

    def _collect_garbage(self) -> None:
        """``garbage_collect_cached_blocks``: above the threshold, give back the large segments longest unused.

        Age is counted in searches of the large pool; each pass gives back those of at least the average age. What lies
        in an expandable segment has a neighbour, address space at least, and stays.
        """
        if self._garbage_above_bytes is None:
            return
        target_bytes = self.reserved_bytes - self._garbage_above_bytes
        searches = self._large.num_searches
        idle = [block for block in self._large.blocks if block.prev is None and block.next is None]
        while target_bytes > 0 and idle:
            average_age = sum(searches - block.inserted_at for block in idle) / len(idle)
            for block in [block for block in idle if searches - block.inserted_at >= average_age]:
                target_bytes -= block.size_bytes
                idle.remove(block)
                self._release(block)
