"""From tensors to segments: the static tensors and a few steps replayed through PyTorch's caching allocator."""

from collections.abc import Sequence

from vramplan.planner.memory.allocator import CachingAllocator, parse_alloc_conf
from vramplan.planner.memory.blocks import Block
from vramplan.planner.memory.endless import EndlessAllocator, is_endless
from vramplan.planner.memory.expand import Expanded, expand
from vramplan.planner.memory.passes import Allocator, play
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.static import Group

Held = Block | None
"""What a tensor has; one without bytes has none."""
CARRIED = "carried"
"""Segments of what the step before left (planner/trace/plain_loop.py)."""


def reserved_bytes(
    steps: Sequence[Replay],
    *,
    warmed_up_bytes: int,
    loading_bytes: list[int],
    before: list[Group],
    optimizer: list[Group],
    gradients: list[Group],
    step_temporaries: list[Group],
    workspace_bytes: int,
    alloc_conf: str,
    limit_bytes: int | None = None,
) -> int:
    """The most the allocator reserves over the first steps.

    Args:
        steps: in their order; one of another length finds the segments of those before cut to other sizes.
        warmed_up_bytes: a block allocated and freed before anything is loaded.
        loading_bytes: tensors that pass while the last weights are loaded.
        before: tensors that exist before the first step (weights, adapter, batch ...).
        optimizer: states, born at the end of the first step.
        gradients: gradients kept over micro batches; empty when each step has one.
        step_temporaries: what the optimizer step holds beyond those.
        workspace_bytes: cuBLAS's workspace.
        limit_bytes: what the driver can give at most; None: without end.

    Raises:
        OutOfDeviceMemory: that is too little, also where all that is cached is given back.
    """
    conf = parse_alloc_conf(alloc_conf)
    endless = is_endless(conf, limit_bytes)
    allocator = EndlessAllocator(conf) if endless else CachingAllocator(conf, limit_bytes=limit_bytes)
    allocator.give(allocator.take(warmed_up_bytes))
    _hold(allocator, before)
    _release(allocator, [allocator.take(size_bytes) for size_bytes in loading_bytes])
    allocator.take(workspace_bytes)
    carried: list[tuple[int, Held]] = []
    for number, step in enumerate(map(expand, steps)):
        adopted = _carried(step)
        kept = _hold(allocator, gradients)
        alive = _micro_step(allocator, step, adopted, carried)
        if number == 0:
            _hold(allocator, optimizer)
        _release(allocator, _hold(allocator, step_temporaries))
        carried = _end_of_step(allocator, step, alive, holds=bool(adopted))
        _release(allocator, kept)
    return allocator.max_reserved_bytes


def _micro_step(
    allocator: Allocator, step: Expanded, adopted: set[int], carried: list[tuple[int, Held]]
) -> dict[int, Held]:
    """One micro step; what is alive at its end.

    Args:
        adopted: the storages that were left by the step before.
        carried: what the step before left, with its size; the first step has none.
    """
    if not adopted:
        return play(allocator, step)
    storages, changes, _ = step
    sizes = [storage.size_bytes for storage in storages]
    take, give = allocator.take, allocator.give
    alive: dict[int, Held] = {}
    for change in changes:
        if change < 0:
            if ~change in alive:  # the first step had nothing carried to it
                give(alive.pop(~change))
        elif change in adopted:
            # after a step of another length nothing has this size, and what is left is taken in its order
            left = next((each for each in carried if each[0] == sizes[change]), carried[0] if carried else None)
            if left is not None:
                carried.remove(left)
                alive[change] = left[1]
        else:
            alive[change] = take(sizes[change])
    return alive


def _end_of_step(
    allocator: Allocator, step: Expanded, alive: dict[int, Held], *, holds: bool
) -> list[tuple[int, Held]]:
    """Free the gradients, and the rest too unless the loop's names hold it; what they hold, with its size."""
    kept = []
    for index, block in alive.items():
        if holds and step.storages[index].component != "gradients":
            kept.append((step.storages[index].size_bytes, block))
        else:
            allocator.give(block)
    return kept


def _carried(step: Expanded) -> set[int]:
    """The storages that were left by the step before."""
    segments = {storage.segment for storage in step.storages}
    if not any(segment.startswith(CARRIED) for segment in segments):
        return set()
    return {index for index, storage in enumerate(step.storages) if storage.segment.startswith(CARRIED)}


def _hold(allocator: Allocator, groups: list[Group]) -> list[Held]:
    return [allocator.take(group.numel * group.element_bytes) for group in groups for _ in range(group.count)]


def _release(allocator: Allocator, blocks: list[Held]) -> None:
    for block in blocks:
        allocator.give(block)
