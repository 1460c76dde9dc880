"""From tensors to segments: the static tensors and a few steps replayed through PyTorch's caching allocator."""

from vramplan.planner.memory.allocator import CachingAllocator, parse_alloc_conf
from vramplan.planner.memory.expand import expand
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
    for step in range(STEPS):
        if gradients:
            _hold(allocator, "gradients", gradients)
        alive = set()
        for change in changes:
            if change.size_bytes > 0:
                allocator.malloc(change.name, change.size_bytes)
                alive.add(change.name)
            else:
                allocator.free(change.name)
                alive.discard(change.name)
        if step == 0:
            _hold(allocator, "optimizer", optimizer)
        _hold(allocator, "optimizer step", step_temporaries)
        _release(allocator, "optimizer step", step_temporaries)
        for name in alive:
            allocator.free(name)
        if gradients:
            _release(allocator, "gradients", gradients)
    return allocator.max_reserved_bytes


def _hold(allocator: CachingAllocator, what: str, groups: list[Group]) -> None:
    for index, group in enumerate(groups):
        for copy in range(group.count):
            allocator.malloc((what, index, copy), group.numel * group.element_bytes)


def _release(allocator: CachingAllocator, what: str, groups: list[Group]) -> None:
    for index, group in enumerate(groups):
        for copy in range(group.count):
            allocator.free((what, index, copy))
