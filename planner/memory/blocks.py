"""The pieces PyTorch's caching allocator is made of: blocks in a row, and a pool of the free ones.

Mirrors ``struct Block`` and ``struct BlockPool`` of ``c10/cuda/CUDACachingAllocator.cpp`` for one device and stream.
"""

from bisect import bisect_left, insort
from typing import Final

ADDRESS_BITS: Final = 72
"""A free block's place in its pool's order is one number: its size, then so many bits of address."""


class Block:
    """A stretch of one segment. ``prev`` and ``next`` are its neighbours in that segment, None at the ends.

    ``mapped`` is False only for address space of an expandable segment that has no memory behind it.
    """

    __slots__ = (
        "address",
        "allocated",
        "inserted_at",
        "mapped",
        "next",
        "pool",
        "prev",
        "requested_bytes",
        "size_bytes",
    )
    inserted_at: int
    requested_bytes: int

    def __init__(
        self,
        pool: "BlockPool",
        address: int,
        size_bytes: int,
        prev: "Block | None" = None,
        next: "Block | None" = None,
        mapped: bool = True,
    ) -> None:
        self.pool = pool
        self.address = address
        self.size_bytes = size_bytes
        self.prev = prev
        self.next = next
        self.mapped = mapped
        self.allocated = False

    def cut(self, size_bytes: int) -> "Block":
        """Shorten to ``size_bytes`` and return the rest as a new block right after, in no list yet."""
        after = self.next
        rest = Block(self.pool, self.address + size_bytes, self.size_bytes - size_bytes, self, after, self.mapped)
        self.size_bytes = size_bytes
        self.next = rest
        if after is not None:
            after.prev = rest
        return rest

    def absorb_neighbours(self) -> None:
        """Take in the neighbours that are free and mapped alike (``try_merge_blocks``); self is in no list."""
        pool = self.pool
        other = self.prev
        if other is not None and not other.allocated and other.mapped is self.mapped:
            pool.remove(other)
            self.address = other.address
            self.size_bytes += other.size_bytes
            self.prev = before = other.prev
            if before is not None:
                before.next = self
        other = self.next
        if other is not None and not other.allocated and other.mapped is self.mapped:
            pool.remove(other)
            self.size_bytes += other.size_bytes
            self.next = after = other.next
            if after is not None:
                after.prev = self


class BlockPool:
    """The free blocks of the small or of the large size class.

    Mapped ones are ordered by size, then address: the first that is big enough is the best fit
    (``BlockComparatorSize``). Bare address space is ordered by address (``BlockComparatorAddress``).
    ``page_bytes`` is what an expandable segment of this pool grows by. A free block of ``split_from_bytes`` more
    than asked for is cut in two, unless the request itself reaches ``split_below_bytes``.
    """

    def __init__(self, *, base_address: int, page_bytes: int, split_from_bytes: int, split_below_bytes: int) -> None:
        self.base_address = base_address
        self.page_bytes = page_bytes
        self.split_from_bytes = split_from_bytes
        self.split_below_bytes = split_below_bytes
        self.unmapped: list[tuple[int, Block]] = []
        self.num_searches = 0
        self.reached_bytes = 0
        """The furthest end of a block in use so far, where that is all that is reserved (``endless``)."""
        self.blocks: list[Block] = []
        """The free mapped blocks by size, then address."""
        # Their sizes and addresses in one number each: replays take half the time they take with tuples.
        self.keys: list[int] = []

    def first_of(self, size_bytes: int) -> int:
        """The place of the smallest free mapped block of at least this size; one past the last if there is none."""
        return bisect_left(self.keys, size_bytes << ADDRESS_BITS)

    def pop(self, index: int) -> Block:
        """Take the free mapped block at a place out of the pool."""
        del self.keys[index]
        return self.blocks.pop(index)

    def carve(self, index: int, size_bytes: int) -> Block:
        """Take the front of the free mapped block at a place; the rest of it stays free."""
        rest = self.blocks[index]
        before = rest.prev
        front = Block(self, rest.address, size_bytes, before, rest)
        if before is not None:
            before.next = front
        rest.prev = front
        rest.address += size_bytes
        rest.size_bytes -= size_bytes
        key = rest.size_bytes << ADDRESS_BITS | rest.address
        if not index or self.keys[index - 1] < key:  # mostly: the rest is still larger than those before it
            self.keys[index] = key
            rest.inserted_at = self.num_searches
        else:
            self.pop(index)
            self.insert(rest)
        return front

    def free(self, block: Block) -> None:
        """Put a block that was in use among the free ones, merged with those beside it (``free_block``)."""
        rest, before = block.next, block.prev
        alone = before is None or before.allocated or not before.mapped
        if not alone or rest is None or rest.allocated or not rest.mapped:
            block.absorb_neighbours()
            self.insert(block)
            return
        keys = self.keys
        index = bisect_left(keys, rest.size_bytes << ADDRESS_BITS | rest.address)
        rest.address = block.address
        rest.size_bytes += block.size_bytes
        rest.prev = before
        if before is not None:
            before.next = rest
        key = rest.size_bytes << ADDRESS_BITS | rest.address
        if index + 1 == len(keys) or key < keys[index + 1]:  # it stays where it stood in the order
            keys[index] = key
            rest.inserted_at = self.num_searches
        else:
            self.pop(index)
            self.insert(rest)

    def insert(self, block: Block) -> None:
        """Put a block nobody uses into the order it belongs to."""
        if block.mapped:
            block.inserted_at = self.num_searches
            key = block.size_bytes << ADDRESS_BITS | block.address
            index = bisect_left(self.keys, key)
            self.keys.insert(index, key)
            self.blocks.insert(index, block)
        else:
            insort(self.unmapped, (block.address, block))

    def remove(self, block: Block) -> None:
        """Take a block out of the order it is in."""
        if block.mapped:
            index = bisect_left(self.keys, block.size_bytes << ADDRESS_BITS | block.address)
            del self.keys[index], self.blocks[index]
        else:
            del self.unmapped[bisect_left(self.unmapped, (block.address,))]
