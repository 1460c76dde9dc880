"""A micro step through the allocator, where equal layers are not all gone through one by one.

A layer's pass is a fixed order of allocations and frees. Two passes find the same memory where the free blocks are the
same, the largest one apart: call it the rest; it begins later or earlier, and ends where it ended. What a pass carves
from the rest moves with it, and everything else stays where it was, as long as the rest is taken by the same requests
and the driver is asked for nothing. So one pass is watched: at each request, which sizes of the rest would change what
serves it? The passes after it, up to the first whose rest has such a size, are put down as what they leave: blocks
carved from the front of the rest (a forward that keeps each layer's input), or blocks before it given back (the
backward that meets them again). Whatever is not of that form is gone through. The answer is that of going through
everything.
"""

from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from vramplan.planner.memory.allocator import CachingAllocator
from vramplan.planner.memory.blocks import ADDRESS_BITS, Block, BlockPool
from vramplan.planner.memory.choices import Choices
from vramplan.planner.memory.endless import EndlessAllocator
from vramplan.planner.memory.expand import Expanded

FEWEST = 5
"""Rounds of equal passes that are worth watching."""
LONGEST_CYCLE = 6
"""Kinds of layers that take turns: five that slide and one that does not (Gemma 3)."""
MOST_BLOCKS = 256
"""Free blocks of a pool; more are not compared."""
MOST_TRIES = 4
_ADDRESS = (1 << ADDRESS_BITS) - 1
Allocator = CachingAllocator | EndlessAllocator
State = tuple[int, tuple[int, ...], tuple[int, ...]]


class _Place(NamedTuple):
    """Where a block is."""

    pool: BlockPool
    address: int
    size_bytes: int


class _Watched(NamedTuple):
    """What a pass did to what was there before it and is there after it."""

    freed: list[tuple[int, _Place]]
    """By its place among the pass's changes: blocks of earlier passes."""
    left: list[tuple[int, _Place]]
    """By storage: blocks that outlive the pass."""
    choices: dict[BlockPool, Choices]
    reached_bytes: dict[BlockPool, int]
    """How far the blocks it used reached; see ``endless``."""


def play(allocator: Allocator, step: Expanded) -> dict[int, Block | None]:
    """Go through a micro step; what is alive at its end, by storage. ``max_allocated_bytes`` is not kept."""
    player = _Player(allocator, step)
    for first, last, cycle in _runs([each.kind for each in step.passes]):
        player.run(first, last, cycle)
    return player.alive


def _runs(kinds: Sequence[Hashable]) -> Iterator[tuple[int, int, int]]:
    """Stretches that repeat after so many kinds: (first, one past the last, how many).

    >>> list(_runs("xabababababy"))
    [(0, 1, 1), (1, 11, 2), (11, 12, 1)]
    """
    first = 0
    while first < len(kinds):
        for cycle in range(1, LONGEST_CYCLE + 1):
            last = first + cycle
            while last < len(kinds) and kinds[last] == kinds[last - cycle]:
                last += 1
            if last - first >= FEWEST * cycle:
                break
        else:
            last, cycle = first + 1, 1
        yield first, last, cycle
        first = last


class _Player:
    def __init__(self, allocator: Allocator, step: Expanded) -> None:
        self.alive: dict[int, Block | None] = {}
        self._allocator = allocator
        self._passes, self._changes = step.passes, step.changes
        self._sizes = [storage.size_bytes for storage in step.storages]
        self._pools = allocator.pools

    def run(self, first: int, last: int, cycle: int) -> None:
        """Passes from one to before another, of kinds that come round."""
        if last - first < FEWEST * cycle or not self._allocator.takes_first:
            self._through(first, last)
            return
        states: dict[int, State | None] = {}
        at, tries = first, 0
        while at < last:
            states[at] = self._state()
            period = self._period(states, at, cycle) if tries < MOST_TRIES else None
            if period is None or last - at < 2 * period:
                self._through(at, at + 1)
                at += 1
                continue
            watched = self._watch(at, at + period)
            after, before = self._state(), states[at]
            at += period
            skipped = 0
            if watched is not None and before is not None and (moved := self._moved(before, after)) is not None:
                skipped = self._skip(watched, moved, before, at, (last - at) // period, period)
                for pool, further in moved.items():  # each pass reached as much further as its rest began later
                    pool.reached_bytes = max(pool.reached_bytes, watched.reached_bytes[pool] + skipped * further)
            at += skipped * period
            tries += not skipped

    def _through(self, first: int, last: int) -> None:
        alive, sizes = self.alive, self._sizes
        take, give = self._allocator.take, self._allocator.give
        for change in self._changes[self._start(first) : self._start(last)]:
            if change >= 0:
                alive[change] = take(sizes[change])
            elif ~change in alive:  # what a step before would have left
                give(alive.pop(~change))

    def _start(self, number: int) -> int:
        return self._passes[number].first_change if number < len(self._passes) else len(self._changes)

    # -------------------------------------------------------------- what two passes find
    def _state(self) -> State | None:
        """What is reserved, where that decides anything, and each pool's free blocks; None where they are too many."""
        small, large = (pool.keys for pool in self._pools)
        if max(len(small), len(large)) > MOST_BLOCKS:
            return None
        reserved = 0 if isinstance(self._allocator, EndlessAllocator) else self._allocator.reserved_bytes
        return reserved, tuple(small), tuple(large)

    def _period(self, states: dict[int, State | None], at: int, cycle: int) -> int | None:
        """How many passes ago the same memory was found, before the same kinds."""
        for period in (cycle, 2 * cycle):  # a gradient handed from layer to layer alternates between two places
            before = states.get(at - period)
            if before is not None and self._moved(before, states[at]) is not None:
                return period
        return None

    def _moved(self, before: State, after: State | None) -> dict[BlockPool, int] | None:
        """By how much the rest of each pool begins later; None where other blocks differ."""
        if after is None or before[0] != after[0]:
            return None
        out = {}
        for pool, old, new in zip(self._pools, before[1:], after[1:], strict=True):
            if old == new:
                out[pool] = 0
            elif old and new and old[:-1] == new[:-1] and _end(old[-1]) == _end(new[-1]):
                out[pool] = _begin(new[-1]) - _begin(old[-1])
            else:
                return None
        return out

    # -------------------------------------------------------------- one pass, watched
    def _watch(self, first: int, last: int) -> _Watched | None:
        alive, sizes = self.alive, self._sizes
        start, own = self._start(first), self._passes[first].first_storage
        ends = {pool: _end(pool.keys[-1]) if pool.keys else 0 for pool in self._pools}
        choices = {pool: Choices() for pool in self._pools}
        before = [pool.reached_bytes for pool in self._pools]
        for pool in self._pools:
            pool.reached_bytes = 0
        freed: list[tuple[int, _Place]] = []
        simple = True
        for place, change in enumerate(self._changes[start : self._start(last)]):
            if change >= 0:
                pool, rounded = self._allocator.served_by(sizes[change])
                simple &= choices[pool].note(pool, ends[pool], rounded)
                block = alive[change] = self._allocator.take(sizes[change])
            else:
                block = alive.pop(~change, None)
                if block is not None and ~change < own:
                    freed.append((place, _Place(block.pool, block.address, block.size_bytes)))
                self._allocator.give(block)
            simple &= block is not None
        stop = self._first_storage(last)
        left = [
            (index, _Place(block.pool, block.address, block.size_bytes))
            for index in range(own, stop)
            if (block := alive.get(index)) is not None
        ]
        reached = {pool: pool.reached_bytes for pool in self._pools}
        for pool, furthest in zip(self._pools, before, strict=True):
            pool.reached_bytes = max(furthest, pool.reached_bytes)
        return _Watched(freed, left, choices, reached) if simple else None

    def _first_storage(self, number: int) -> int:
        return self._passes[number].first_storage if number < len(self._passes) else len(self._sizes)

    # -------------------------------------------------------------- the passes after it
    def _skip(
        self, watched: _Watched, moved: dict[BlockPool, int], before: State, at: int, most: int, period: int
    ) -> int:
        """Put down the passes after a watched one; how many (times the period) it was."""
        zones: dict[BlockPool, range] = {}
        for pool, keys in zip(self._pools, before[1:], strict=True):
            if moved[pool]:
                zone = _zone(pool, keys[-1], moved[pool], watched)
                if zone is None:
                    return 0
                zones[pool] = zone
                most = watched.choices[pool].same(-moved[pool], most)

        def moves(place: _Place) -> bool:
            return place.pool in zones and place.address in zones[place.pool]

        def after(place: _Place, number: int) -> _Place:
            return place._replace(address=place.address + number * moved[place.pool]) if moves(place) else place

        carved = sorted((each for each in watched.left if moves(each[1])), key=lambda each: each[1].address)
        dropped = [each for each in watched.freed if moves(each[1])]
        kept = {place: index for index, place in watched.left if not moves(place)}
        if kept.keys() != {place for _, place in watched.freed if not moves(place)}:
            return 0
        stride = self._first_storage(at) - self._first_storage(at - period)
        known: dict[int, _Place] = {}
        done = 0
        for number in range(1, most + 1):
            start = self._start(at + (number - 1) * period)
            met = {~self._changes[start + place]: was for place, was in watched.freed}
            if any(self._where(index, known) != after(was, number) for index, was in met.items()):
                break
            known |= {index + number * stride: after(was, number) for index, was in watched.left}
            done = number
        while done and not self._alone(dropped, at + (done - 1) * period):
            done -= 1
        for number in range(1, done + 1):
            self._put_down(dropped, carved, self._start(at + (number - 1) * period), number * stride)
        for index in kept.values() if done else ():  # as many places, taken again by each pass
            self.alive[index + done * stride] = self.alive.pop(index)
        return done

    def _where(self, index: int, known: dict[int, _Place]) -> _Place | None:
        if index in known:
            return known[index]
        block = self.alive.get(index)
        return None if block is None else _Place(block.pool, block.address, block.size_bytes)

    def _alone(self, dropped: list[tuple[int, _Place]], number: int) -> bool:
        """Nothing free lies before the blocks that a pass gives back: it would be merged with them."""
        start = self._start(number)
        for pool in self._pools:
            own = [(was.address, ~self._changes[start + place]) for place, was in dropped if was.pool is pool]
            if own:
                lowest = self.alive.get(min(own)[1])
                if lowest is None or (lowest.prev is not None and not lowest.prev.allocated):
                    return False
        return True

    def _put_down(
        self, dropped: list[tuple[int, _Place]], carved: list[tuple[int, _Place]], start: int, stride: int
    ) -> None:
        """What one pass leaves at the front of the rest."""
        for place, _ in dropped:
            self._allocator.give(self.alive.pop(~self._changes[start + place]))
        for index, was in carved:
            self.alive[index + stride] = self._allocator.carve(was.pool, was.size_bytes)


def _zone(pool: BlockPool, rest: int, shift: int, watched: _Watched) -> range | None:
    """The addresses that move with the rest: its own, and those of the blocks right before it that the pass gives back,
    as far as what it leaves stands there instead, without a gap. None: what it leaves stands elsewhere."""
    freed = {place.address + place.size_bytes: place for _, place in watched.freed if place.pool is pool}
    begin, found = _begin(rest), None
    while True:
        zone = range(begin, _end(rest))
        at = begin
        for address, size_bytes in sorted(place[1:] for _, place in watched.left if place.pool is pool):
            if address in zone:
                at = at + size_bytes if address == at else -1
        if at == _begin(rest) + shift:
            found = zone
        if begin not in freed:
            return found
        begin = freed[begin].address


def _begin(key: int) -> int:
    return key & _ADDRESS


def _end(key: int) -> int:
    return (key >> ADDRESS_BITS) + (key & _ADDRESS)
