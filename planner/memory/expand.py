"""A memory program written out in full: every allocation and free of a step, by name, for the allocator's replay and
for saying which tensors are alive at the peak."""

from collections.abc import Hashable, Iterator
from typing import NamedTuple

from vramplan.planner.memory import fused_loss
from vramplan.planner.memory.budget import Component, LiveTensor
from vramplan.planner.memory.replay import Replay
from vramplan.planner.programs.program import Accumulate, Alloc, Free, MacroCall

Name = Hashable


class Change(NamedTuple):
    """A storage appears (bytes above zero) or goes."""

    name: Name
    size_bytes: int
    component: Component
    label: str


def expand(replay: Replay) -> Iterator[Change]:
    """Every change of one micro step, in order. A free has negative bytes."""
    ordinals: dict[tuple[str, int | None], int] = {}
    program = replay.program
    for block, layer, template in replay.blocks():
        where = (block.segment, layer)
        for entry in program.templates[template]:
            if isinstance(entry, Alloc):
                ordinal = ordinals.get(where, 0)
                ordinals[where] = ordinal + 1
                size = replay.sizes[entry.size]
                yield Change((*where, ordinal), size, entry.component, program.labels[entry.label])
            elif isinstance(entry, MacroCall):
                yield from _macro(replay, entry)
            elif isinstance(entry, Free) or (isinstance(entry, Accumulate) and replay.at.accumulating):
                ref = entry.ref
                alloc = replay.born(ref, layer)
                target = None if ref.offset is None else (layer or 0) + ref.offset
                yield Change((ref.segment, target, ref.ordinal), -replay.sizes[alloc.size], alloc.component, "")


def _macro(replay: Replay, call: MacroCall) -> Iterator[Change]:
    """The inside of a loop; what survives it follows as ordinary allocations."""
    head = replay.fused_head(call)
    walk = fused_loss.forward if call.name == "fused_forward" else fused_loss.backward
    quantum = replay.at.quantum_bytes
    live: list[tuple[Name, int]] = []
    for index, size in enumerate(walk(head)):
        rounded = -(-abs(size) // quantum) * quantum
        if not rounded:
            continue
        label = f"lm_head|{call.name}|({abs(size)} bytes)"
        if size > 0:
            live.append(((call.name, index), rounded))
            yield Change((call.name, index), rounded, "loss", label)
        else:
            # the most recent storage of that size is the one that goes
            at = next(i for i in range(len(live) - 1, -1, -1) if live[i][1] == rounded)
            name, _ = live.pop(at)
            yield Change(name, -rounded, "loss", "")
    for name, rounded in live:
        yield Change(name, -rounded, "loss", "")


def live_at_peak(replay: Replay, *, limit: int = 24) -> tuple[LiveTensor, ...]:
    """Dynamic tensors alive at the step's highest point, largest first, equal ones counted together."""
    level = highest = 0
    live: dict[Name, Change] = {}
    best: list[Change] = []
    rising = False
    for change in expand(replay):
        level += change.size_bytes
        if change.size_bytes > 0:
            live[change.name] = change
            rising = level > highest or rising
            highest = max(highest, level)
        else:
            if rising:
                best, rising = list(live.values()), False
            live.pop(change.name, None)
    if rising:
        best = list(live.values())
    return _grouped(best, limit)


def _described(change: Change) -> str:
    """A label without its module where that is not known: autograd's own operations run outside any module."""
    segment = change.name[0] if isinstance(change.name, tuple) else ""
    if str(segment).startswith("backward") and change.component in ("temporaries", "gradients"):
        return "backward" + change.label[change.label.index("|") :]
    return change.label


def _grouped(changes: list[Change], limit: int) -> tuple[LiveTensor, ...]:
    groups: dict[tuple[str, Component, int], int] = {}
    for change in changes:
        key = (_described(change), change.component, change.size_bytes)
        groups[key] = groups.get(key, 0) + 1
    ranked = sorted(groups.items(), key=lambda item: -item[0][2] * item[1])
    out = []
    for (label, component, size), count in ranked[:limit]:
        module, operation, shape = (*label.split("|"), "", "")[:3]
        out.append(
            LiveTensor(
                label=f"{module} {operation}".strip(),
                shape=shape,
                count=count,
                total_bytes=size * count,
                component=component,
            )
        )
    return tuple(out)
