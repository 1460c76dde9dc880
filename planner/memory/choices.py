"""For which sizes of one free block the caching allocator serves the same requests from the same blocks."""

from vramplan.planner.memory.blocks import BlockPool

_ENDLESS = 2**63
"""More bytes than any block has."""


class Choices:
    """For which sizes of the rest every request of a pass is served by the same block, the rest being so much larger or
    smaller than it was."""

    def __init__(self) -> None:
        self.least, self.below = -_ENDLESS, _ENDLESS
        """Where the rest served."""
        self.not_in: set[tuple[int, int]] = set()
        """Where another block did: the rest must not have become the best fit."""

    def same(self, growth_bytes: int, most: int) -> int:
        """In how many passes, each of whose rests is larger by so much than the one before, nothing changes."""
        for number in range(1, most + 1):
            size = number * growth_bytes
            if not self.least <= size < self.below or any(low <= size <= high for low, high in self.not_in):
                return number - 1
        return most

    def note(self, pool: BlockPool, end: int, rounded: int) -> bool:
        """A request about to be served by a pool's free blocks, of which the rest ends there. False: not told apart."""
        rest, others, last_resort = 0, _ENDLESS, False
        for block in pool.blocks:
            size = block.size_bytes
            grows = block.next is not None and not block.next.mapped  # used after all others: see ``least_growable``
            if block.address + size == end:
                rest, last_resort = size, grows
            elif rounded <= size < others and not grows:
                others = size
        if last_resort:
            if others == _ENDLESS:
                self.least = max(self.least, rounded - rest + pool.split_from_bytes)
            return True
        if rounded <= rest < others:
            self.least = max(self.least, rounded - rest + pool.split_from_bytes)
            self.below = min(self.below, others - rest)
            return rest - rounded >= pool.split_from_bytes or rest == rounded
        self.not_in.add((rounded - rest, others - rest))
        return rest != others
