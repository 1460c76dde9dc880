"""A memory program written out in full: every allocation and free of a step, by name, for the allocator's replay and
for saying which tensors are alive at the peak."""

from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

from vramplan.planner.memory import fused_loss
from vramplan.planner.memory.budget import Component, LiveTensor
from vramplan.planner.memory.replay import Replay
from vramplan.planner.programs.program import Accumulate, Alloc, MacroCall, Ref


class Storage(NamedTuple):
    """One allocation of the step."""

    size_bytes: int
    component: Component
    label: str
    segment: str


class Pass(NamedTuple):
    """One layer's stretch of the step, or what lies between."""

    first_change: int
    first_storage: int
    kind: tuple[str, int]
    """Segment and template: stretches of one kind do the same."""


class Expanded(NamedTuple):
    """Every allocation of one micro step, and the order in which they come and go."""

    storages: list[Storage]
    changes: list[int]
    """The index of a storage that comes to life, or ``~index`` of one that dies."""
    passes: list[Pass]
    """Where each stretch begins, in order: layers that are alike follow one another."""


@lru_cache(maxsize=1)  # one answer asks twice: for the allocator, and for the tensors at the peak
def expand(replay: Replay) -> Expanded:
    """A micro step in full."""
    out = Expanded([], [], [])
    storages, changes, passes = out
    born: dict[tuple[str, int | None], list[int]] = {}
    stretches: dict[tuple[int, str], _Stretch] = {}
    for block, layer, template in replay.blocks():
        segment = block.segment
        stretch = stretches.get((template, segment))
        if stretch is None:
            stretch = stretches[template, segment] = _stretch(replay, template, segment)
        here = born.setdefault((segment, layer), [])
        passes.append(Pass(len(changes), len(storages), (segment, template)))
        for part in stretch:
            if isinstance(part, MacroCall):
                _expand_macro(replay, part, out)
                continue
            first = len(storages)
            storages += part.storages
            at = len(changes)
            changes += [first + change if change >= 0 else change - first for change in part.changes]
            here += range(first, len(storages))
            for place, (there, offset, ordinal) in part.refs:
                target = None if offset is None else (layer or 0) + offset
                changes[at + place] = ~born[there, target][ordinal]
    return out


class _Part(NamedTuple):
    """What a template does between macros, wherever it stands: numbered from its own first storage."""

    storages: list[Storage]
    changes: list[int]
    refs: list[tuple[int, Ref]]
    """Places in ``changes`` where something dies that may be born elsewhere."""


_Stretch = list[_Part | MacroCall]


def _stretch(replay: Replay, template: int, segment: str) -> _Stretch:
    program, sizes = replay.program, replay.sizes
    out: _Stretch = []
    part = _Part([], [], [])
    for entry in program.templates[template]:
        if isinstance(entry, Alloc):
            part.changes.append(len(part.storages))
            label = program.labels[entry.label]
            part.storages.append(Storage(sizes[entry.size], entry.component, label, segment))
        elif isinstance(entry, MacroCall):
            out += [part, entry]
            part = _Part([], [], [])
        elif not isinstance(entry, Accumulate) or replay.at.accumulating:
            part.refs.append((len(part.changes), entry.ref))
            part.changes.append(0)
    return [*out, part]


def _expand_macro(replay: Replay, call: MacroCall, out: Expanded) -> None:
    """The inside of a loop; what survives it follows as ordinary allocations."""
    head = replay.fused_head(call)
    walk = fused_loss.forward if call.name == "fused_forward" else fused_loss.backward
    quantum = replay.at.quantum_bytes
    live: list[int] = []
    for size in walk(head):
        rounded = -(-abs(size) // quantum) * quantum
        if not rounded:
            continue
        if size > 0:
            live.append(len(out.storages))
            out.changes.append(len(out.storages))
            out.storages.append(Storage(rounded, "loss", f"lm_head|{call.name}|({size} bytes)", call.name))
        else:
            # the most recent storage of that size is the one that goes
            at = next(i for i in range(len(live) - 1, -1, -1) if out.storages[live[i]].size_bytes == rounded)
            out.changes.append(~live.pop(at))
    out.changes.extend(~index for index in live)


def live_at_peak(replay: Replay, *, limit: int = 24) -> tuple[LiveTensor, ...]:
    """Dynamic tensors alive at the step's highest point, largest first, equal ones counted together."""
    storages, changes, _ = expand(replay)
    sizes = [storages[change].size_bytes if change >= 0 else -storages[~change].size_bytes for change in changes]
    levels = list(accumulate(sizes))
    highest = levels.index(max(levels))
    while highest + 1 < len(changes) and changes[highest + 1] >= 0:  # what weighs nothing is there too
        highest += 1
    dead = {~change for change in changes[: highest + 1] if change < 0}
    alive = (change for change in changes[: highest + 1] if change >= 0 and change not in dead)
    return _grouped([storages[index] for index in alive], limit)


def _described(storage: Storage) -> str:
    """A label without its module where that is not known: autograd's own operations run outside any module."""
    if storage.segment.startswith("backward") and storage.component in ("temporaries", "gradients"):
        return "backward" + storage.label[storage.label.index("|") :]
    return storage.label


def _grouped(storages: list[Storage], limit: int) -> tuple[LiveTensor, ...]:
    groups: dict[tuple[str, Component, int], int] = {}
    for storage in storages:
        key = (_described(storage), storage.component, storage.size_bytes)
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
