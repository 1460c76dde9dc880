"""From tensors to segments: the static tensors and a few steps replayed through PyTorch's caching allocator."""

from collections.abc import Hashable

from vramplan.planner.memory.allocator import CachingAllocator, parse_alloc_conf
from vramplan.planner.memory.expand import Change, expand
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.static import Group

STEPS = 2
"""Reserved memory is flat from the second step on; optimizer states are born at the end of the first."""


def reserved_bytes(
    replay: Replay,
    *,
    before: list[Group],
    optimizer: list[Group],
    gradients: list[Group],
    step_temporaries: list[Group],
    workspace_bytes: int,
    alloc_conf: str,
) -> int:
    """The most the allocator reserves over the first steps.

    Args:
        before: tensors that exist before the first step (weights, adapter, batch ...).
        optimizer: states, born at the end of the first step.
        gradients: gradients kept over micro batches; empty when each step has one.
        step_temporaries: what the optimizer step holds beyond those.
        workspace_bytes: cuBLAS's workspace.
    """
    allocator = CachingAllocator(parse_alloc_conf(alloc_conf))
    _hold(allocator, "static", before)
    allocator.malloc("workspace", workspace_bytes)
    changes = list(expand(replay))
    left: list[tuple[Change, Hashable]] = []
    for step in range(STEPS):
        if gradients:
            _hold(allocator, "gradients", gradients)
        alive = _micro_step(allocator, changes, step, left)
        if step == 0:
            _hold(allocator, "optimizer", optimizer)
        _hold(allocator, "optimizer step", step_temporaries)
        _release(allocator, "optimizer step", step_temporaries)
        left = _end_of_step(allocator, alive, carries=any(_is_carried(change) for change in changes))
        if gradients:
            _release(allocator, "gradients", gradients)
    return allocator.max_reserved_bytes


def _micro_step(
    allocator: CachingAllocator, changes: list[Change], step: int, left: list[tuple[Change, Hashable]]
) -> dict[Hashable, tuple[Change, Hashable]]:
    """One micro step; what is alive at its end, with the keys the allocator knows it by.

    Args:
        left: what the step before left; the first step has none.
    """
    alive: dict[Hashable, tuple[Change, Hashable]] = {}
    for change in changes:
        if change.size_bytes < 0:
            known = alive.pop(change.name, None)
            if known is not None:
                allocator.free(known[1])
        elif _is_carried(change):
            kept = next((each for each in left if each[0].size_bytes == change.size_bytes), None)
            if kept is not None:
                left.remove(kept)
                alive[change.name] = change, kept[1]
        else:
            key = (step, change.name)
            allocator.malloc(key, change.size_bytes)
            alive[change.name] = change, key
    return alive


def _end_of_step(
    allocator: CachingAllocator, alive: dict[Hashable, tuple[Change, Hashable]], *, carries: bool
) -> list[tuple[Change, Hashable]]:
    """Free the gradients, and the rest too unless the loop's names hold it; what they hold."""
    kept = []
    for change, key in alive.values():
        if carries and change.component != "gradients":
            kept.append((change, key))
        else:
            allocator.free(key)
    return kept


def _is_carried(change: Change) -> bool:
    """Left by the step before (planner/trace/plain_loop.py)."""
    return isinstance(change.name, tuple) and str(change.name[0]).startswith("carried")


def _hold(allocator: CachingAllocator, what: str, groups: list[Group]) -> None:
    for index, group in enumerate(groups):
        for copy in range(group.count):
            allocator.malloc((what, index, copy), group.numel * group.element_bytes)


def _release(allocator: CachingAllocator, what: str, groups: list[Group]) -> None:
    for index, group in enumerate(groups):
        for copy in range(group.count):
            allocator.free((what, index, copy))
