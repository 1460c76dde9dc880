"""The caching allocator where segments expand and the driver never refuses: most runs, and much less to replay.

No page is ever given back then, and of a segment's free blocks the one at its end can always be made longer. It is
used after all others: where it is mapped far enough, as ``least_growable`` has it, and else because only it can grow.
So how far it is mapped decides nothing, and it can be one block without end; what is reserved are the pages that
blocks in use ever reached. The rules are those of ``allocator.CachingAllocator``, whose figures these are to the byte.
"""

from bisect import bisect_left
from typing import Final

from vramplan.planner.memory.alloc_conf import AllocConf
from vramplan.planner.memory.allocator import (
    MAX_REQUEST_BYTES,
    MIN_BLOCK_BYTES,
    SMALL_BUFFER_BYTES,
    SMALL_SIZE_BYTES,
    OutOfDeviceMemory,
)
from vramplan.planner.memory.blocks import ADDRESS_BITS, Block, BlockPool

_END: Final = 2**62


def is_endless(conf: AllocConf, limit_bytes: int | None) -> bool:
    """Whether the simple rules are all there is to these settings."""
    plain = conf.max_split_size_bytes is None and not conf.roundup_power2_divisions
    return conf.expandable_segments and plain and limit_bytes is None


class EndlessAllocator:
    """One device's allocator; ``take`` and ``give`` as ``CachingAllocator`` has them.

    >>> allocator = EndlessAllocator(AllocConf(expandable_segments=True))
    >>> allocator.give(allocator.take(11 * 2**20))
    >>> allocator.max_reserved_bytes // 2**20
    20
    """

    takes_first: Final = True

    def __init__(self, conf: AllocConf) -> None:
        pages = (SMALL_BUFFER_BYTES, conf.large_segment_size_bytes)
        self._small, self._large = self.pools = tuple(
            BlockPool(base_address=0, page_bytes=page, split_from_bytes=MIN_BLOCK_BYTES, split_below_bytes=_END)
            for page in pages
        )
        for pool in self.pools:
            pool.insert(Block(pool, 0, _END))

    @property
    def max_reserved_bytes(self) -> int:
        """The most that was ever held from the driver."""
        return sum(-(-pool.reached_bytes // pool.page_bytes) * pool.page_bytes for pool in self.pools)

    def take(self, size_bytes: int) -> Block | None:
        """A tensor's block; an empty one has none.

        Raises:
            OutOfDeviceMemory: no device is that large.
        """
        if size_bytes >= MAX_REQUEST_BYTES:
            raise OutOfDeviceMemory(size_bytes, reserved_bytes=self.max_reserved_bytes, allocated_bytes=0)
        if size_bytes == 0:
            return None
        rounded = -(-size_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        pool = self._small if rounded <= SMALL_SIZE_BYTES else self._large
        index = bisect_left(pool.keys, rounded << ADDRESS_BITS)
        block = pool.pop(index) if pool.blocks[index].size_bytes == rounded else pool.carve(index, rounded)
        block.allocated = True
        if block.address + rounded > pool.reached_bytes:
            pool.reached_bytes = block.address + rounded
        return block

    def give(self, block: Block | None) -> None:
        """Give back what ``take`` gave."""
        if block is not None:
            block.allocated = False
            block.pool.free(block)

    def served_by(self, size_bytes: int) -> tuple[BlockPool, int]:
        """The pool that serves a request, and what it is rounded to."""
        rounded = -(-size_bytes // MIN_BLOCK_BYTES) * MIN_BLOCK_BYTES
        return (self._small if rounded <= SMALL_SIZE_BYTES else self._large), rounded

    def carve(self, pool: BlockPool, size_bytes: int) -> Block:
        """Take the front of the block without end."""
        block = pool.carve(len(pool.keys) - 1, size_bytes)
        block.allocated = True
        pool.reached_bytes = max(pool.reached_bytes, block.address + size_bytes)
        return block
