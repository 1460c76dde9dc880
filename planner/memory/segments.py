"""What the allocator takes from the driver: memory up to a limit, and segments that grow page by page.

Mirrors ``struct ExpandableSegment`` and the functions around it in ``c10/cuda/CUDACachingAllocator.cpp``. Each pool has
one expandable segment: bare address space at first, into which whole pages are mapped where they are needed and out of
which free pages are unmapped when the cache is flushed. PyTorch drops a segment whose last page is unmapped and starts
another later; keeping it comes to the same.
"""

from typing import Final

from vramplan.planner.memory.blocks import Block, BlockPool

_ADDRESS_SPACE_PAGES: Final = 2**40  # without end for any device there is; PyTorch: 9/8 of the device's memory


class OutOfDeviceMemory(Exception):  # noqa: N818 - an outcome of a replay, not a mistake
    """The driver had no more memory, even after the cache was flushed. The allocator stays usable.

    Carries ``size_bytes`` (asked for), and ``reserved_bytes`` and ``allocated_bytes`` as they stood after the flush.
    """

    def __init__(self, size_bytes: int, *, reserved_bytes: int, allocated_bytes: int) -> None:
        super().__init__(
            f"no room for {size_bytes} bytes: {allocated_bytes} bytes are allocated, {reserved_bytes} reserved"
        )
        self.size_bytes = size_bytes
        self.reserved_bytes = reserved_bytes
        self.allocated_bytes = allocated_bytes


class DeviceMemory:
    """The driver's side: how much is held from it. Nothing is given beyond ``limit_bytes``."""

    def __init__(self, limit_bytes: int | None) -> None:
        self.limit_bytes = limit_bytes
        self.reserved_bytes = 0
        self.max_reserved_bytes = 0

    def reserve(self, num_bytes: int) -> bool:
        """cudaMalloc, or cuMemCreate of every page of a range: all of it, or False and nothing."""
        reserved = self.reserved_bytes + num_bytes
        if self.limit_bytes is not None and reserved > self.limit_bytes:
            return False
        self.reserved_bytes = reserved
        self.max_reserved_bytes = max(self.max_reserved_bytes, reserved)
        return True

    def release(self, num_bytes: int) -> None:
        """cudaFree, or cuMemRelease of pages."""
        self.reserved_bytes -= num_bytes


def growable_bytes(block: Block) -> int:
    """What a free block could grow to: itself and the bare address space right after it (``expandable_size``)."""
    after = block.next
    return block.size_bytes + (after.size_bytes if after is not None and not after.mapped else 0)


def least_growable(pool: BlockPool, index: int) -> int:
    """A block before bare address space counts as large as it could grow, so that others are used up first."""
    blocks = pool.blocks
    while index + 1 < len(blocks) and growable_bytes(blocks[index + 1]) < growable_bytes(blocks[index]):
        index += 1
    return index


def grow(pool: BlockPool, size_bytes: int, device: DeviceMemory) -> Block | None:
    """Map pages until a free block of ``size_bytes`` stands at the lowest address that has room for it.

    Mirrors ``try_allocate_expandable_block``. Returns that block, in no list, or None where the driver refuses;
    pages already mapped then stay, as free memory.
    """
    block = _lowest_room(pool, size_bytes)
    if block is None or (not block.mapped and not _map(block, min(block.size_bytes, size_bytes), device)):
        return None
    while block.size_bytes < size_bytes:  # a free block with bare address space after it
        after = block.next
        if after is None or not _map(after, min(size_bytes - block.size_bytes, after.size_bytes), device):
            return None
        block = after
    pool.remove(block)
    return block


def unmap(block: Block, device: DeviceMemory) -> None:
    """Give back the pages that lie wholly inside a free block (``unmap_block``); its ends stay free memory."""
    pool = block.pool
    page, base = pool.page_bytes, pool.base_address
    begin = base + -(-(block.address - base) // page) * page
    end = base + (block.address + block.size_bytes - base) // page * page
    if begin >= end:
        return
    pool.remove(block)
    if block.address < begin:
        head, block = block, block.cut(begin - block.address)
        pool.insert(head)
    if block.size_bytes > end - begin:
        pool.insert(block.cut(end - begin))
    block.mapped = False
    block.absorb_neighbours()
    pool.insert(block)
    device.release(end - begin)


def _lowest_room(pool: BlockPool, size_bytes: int) -> Block | None:
    """``find_expandable_block``: where free and bare stretches in a row, at least one bare, add up to the size."""
    if not pool.unmapped:
        pool.insert(Block(pool, pool.base_address, pool.page_bytes * _ADDRESS_SPACE_PAGES, mapped=False))
    for _, bare in pool.unmapped:
        first = bare
        if bare.prev is not None and not bare.prev.allocated:
            first = bare.prev
        room, block = 0, first
        while room < size_bytes and not block.allocated:
            room += block.size_bytes
            if block.next is None:
                break
            block = block.next
        if room >= size_bytes:
            return first
    return None


def _map(block: Block, size_bytes: int, device: DeviceMemory) -> bool:
    """``map_block``: put pages behind the first ``size_bytes`` of bare address space, merged with what is free."""
    pool = block.pool
    mapped_bytes = -(-size_bytes // pool.page_bytes) * pool.page_bytes
    if not device.reserve(mapped_bytes):
        return False
    pool.remove(block)
    if mapped_bytes < block.size_bytes:
        pool.insert(block.cut(mapped_bytes))
    block.mapped = True
    block.absorb_neighbours()
    pool.insert(block)
    return True
