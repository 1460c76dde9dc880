"""The reserved peak of a plain loop that empties the allocator's cache before its longest batch.

PEFT's benchmark sorts buckets of 20 batches long to short and empties the cache every 10 steps
(method_comparison/MetaMathQA/run.py, BUCKET_FACTOR and ACCELERATOR_EMPTY_CACHE_SCHEDULE), so a bucket's longest batch
always finds an empty cache, and what the loop's names still hold is the outputs of a bucket's shortest. A price repeats
the longest batch instead: it finds the segments, and the outputs, of a batch as long.
"""

from pricings import pricing_of

from vramplan.planner.memory.allocator import CachingAllocator, parse_alloc_conf
from vramplan.planner.memory.expand import expand
from vramplan.planner.memory.reserved import CARRIED, Held


def reserved_from_empty(*command: str) -> int:
    """Bytes reserved at most by one step that finds weights and optimizer states alone; the shortest batch's outputs,
    gone before the peak, are left out."""
    pricing = pricing_of(*command)
    static = pricing.static
    allocator = CachingAllocator(parse_alloc_conf(pricing.question.setup.alloc_conf))
    for group in (*static.weights, *static.adapter, *pricing.states, *pricing.buffers, *pricing.batch):
        for _ in range(group.count):
            allocator.take(group.numel * group.element_bytes)
    allocator.take(pricing.workspaces_bytes)
    storages, changes, _ = expand(pricing.replay)
    alive: dict[int, Held] = {}
    for change in changes:
        if change >= 0 and not storages[change].segment.startswith(CARRIED):
            alive[change] = allocator.take(storages[change].size_bytes)
        elif ~change in alive:
            allocator.give(alive.pop(~change))
    return allocator.max_reserved_bytes
