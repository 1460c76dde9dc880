"""Replay a memory program: at any depth, batch and sequence, the peak of each phase and what it is made of.

A template is walked once for its net effect and highest point; a sweep over layers then costs one addition a layer.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from vramplan.planner.dims import with_derived
from vramplan.planner.errors import NoProgramError
from vramplan.planner.memory import fused_loss
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.programs.program import (
    Accumulate,
    Alloc,
    Block,
    Entry,
    MacroCall,
    Program,
    Ref,
    neighbourhood,
)

PHASES: dict[str, PhaseName] = {
    "carried": "forward",
    "carried.layer": "forward",
    "forward.embed": "forward",
    "forward.prefix": "forward",
    "forward.layer": "forward",
    "forward.between": "forward",
    "forward.head": "loss",
    "backward.head": "loss",
    "backward.layer": "backward",
    "backward.between": "backward",
    "backward.embed": "backward",
    "backward.prefix": "backward",
    "end": "backward",
}


@dataclass(frozen=True)
class At:
    """The sizes to replay at: base variables (B, S, N, h ...), the kind of every layer, the allocator's quantum."""

    values: dict[str, int]
    kinds: tuple[str, ...]
    quantum_bytes: int
    accumulating: bool = False
    """Gradients of earlier micro batches are kept, so this one's are added and freed."""


@dataclass
class Peak:
    """The highest point of a phase: dynamic bytes above the static part, by component."""

    total_bytes: int = 0
    parts: dict[Component, int] = field(default_factory=dict)


@dataclass
class Replayed:
    """What a micro step does on top of the static tensors."""

    peaks: dict[PhaseName, Peak]
    end_bytes: int
    """Still allocated when the backward is done (gradients, if they were not there before)."""
    end_parts: dict[Component, int]


@dataclass(frozen=True)
class _Effect:
    """A template's net change and highest point, in total and by component at the highest point."""

    net: int
    net_parts: dict[Component, int]
    high: int
    high_parts: dict[Component, int]


class Replay:
    """One program at one set of sizes."""

    def __init__(self, program: Program, at: At) -> None:
        self.program = program
        self.at = at
        values = with_derived(at.values)
        self.values = values
        quantum = at.quantum_bytes
        self.sizes = [-(-size.evaluate(values) // quantum) * quantum for size in program.sizes]
        self._effects: dict[tuple[int, str], _Effect] = {}

    @cached_property
    def around(self) -> tuple[str, ...]:
        """Every layer's neighbourhood."""
        return _neighbourhoods(self.at.kinds, self.program.radius)

    @cached_property
    def _births(self) -> dict[tuple[str, str], list[Alloc]]:
        """Allocations by (segment, neighbourhood), in order: what a Ref's ordinal counts."""
        births: dict[tuple[str, str], list[Alloc]] = {}
        for block in self.program.blocks:
            for around, template in block.templates:
                allocs = [entry for entry in self.program.templates[template] if isinstance(entry, Alloc)]
                births.setdefault((block.segment, around), []).extend(allocs)
        return births

    def born(self, ref: Ref, layer: int | None) -> Alloc:
        """The allocation a reference names, seen from ``layer``."""
        around = "" if ref.offset is None else self.around[(layer or 0) + ref.offset]
        return self._births[ref.segment, around][ref.ordinal]

    def blocks(self) -> Iterator[tuple[Block, int | None, int]]:
        """Every (block, layer, template) of the step, in order."""
        kinds = self.at.kinds
        for block in self.program.blocks:
            if block.first is None or block.last is None:
                yield block, None, block.templates[0][1]
                continue
            chosen = dict(block.templates)
            for layer in range(block.first.at(kinds), block.last.at(kinds) + block.step, block.step):
                yield block, layer, self._choose(chosen, layer)

    def _choose(self, chosen: dict[str, int], layer: int) -> int:
        template = chosen.get(self.around[layer])
        if template is None:
            raise NoProgramError(
                f"layer {layer} stands between layers ({self.around[layer]}) that the memory program never saw",
                remedy="report this model: its layers are arranged in a way no trace covered",
            )
        return template

    @cached_property
    def num_allocations(self) -> int:
        """Tensors a step allocates; what a macro allocates inside is not counted."""
        counts = [sum(isinstance(entry, Alloc) for entry in template) for template in self.program.templates]
        return sum(counts[template] for _, _, template in self.blocks())

    def run(self) -> Replayed:
        """The peak of each phase."""
        level = 0
        parts: dict[Component, int] = {}
        highest: dict[PhaseName, tuple[int, dict[Component, int], _Effect]] = {}
        for block, layer, template in self.blocks():
            effect = self._effect(template, layer)
            phase = PHASES[block.segment]
            best = highest.get(phase)
            if best is None or level + effect.high > best[0]:
                highest[phase] = (level + effect.high, dict(parts), effect)
            level += effect.net
            for component, change in effect.net_parts.items():
                parts[component] = parts.get(component, 0) + change
        peaks = {
            phase: Peak(total, _add(before, effect.high_parts)) for phase, (total, before, effect) in highest.items()
        }
        return Replayed(peaks, level, {c: n for c, n in parts.items() if n})

    def stretches(self) -> Iterator[tuple[PhaseName, int | None, int]]:
        """(phase, layer, bytes at the highest point inside) of every stretch of the step, in order."""
        level = 0
        for block, layer, template in self.blocks():
            effect = self._effect(template, layer)
            yield PHASES[block.segment], layer, level + effect.high
            level += effect.net

    def forward_alone(self) -> Peak:
        """The highest point of a forward that keeps nothing for a backward: each layer begins with what the embedding
        left, one hidden state among it, and with what outlives layers but not the forward (autocast's copies of weights
        are kept without gradients too: at::autocast::cached_cast)."""
        level = 0
        parts: dict[Component, int] = {}
        highest = Peak()
        for block, layer, template in self.blocks():
            if not block.segment.startswith("forward"):
                continue
            effect = self._effect(template, layer)
            if level + effect.high > highest.total_bytes:
                highest = Peak(level + effect.high, _add(parts, effect.high_parts))
            left = effect.net_parts
            if block.segment != "forward.embed":
                left = {"temporaries": left.get("temporaries", 0)}
            level += sum(left.values())
            parts = _add(parts, left)
        return highest

    def _effect(self, template: int, layer: int | None) -> _Effect:
        key = (template, "" if layer is None else self.around[layer])
        known = self._effects.get(key)
        if known is None:
            known = self._effects[key] = self._walk(self.program.templates[template], layer)
        return known

    def _walk(self, entries: tuple[Entry, ...], layer: int | None) -> _Effect:
        level = high = 0
        parts: dict[Component, int] = {}
        high_parts: dict[Component, int] = {}
        for entry in entries:
            if isinstance(entry, Alloc):
                size, component = self.sizes[entry.size], entry.component
            elif isinstance(entry, MacroCall):
                inside = self.macro_peak(entry)
                if level + inside > high:
                    high, high_parts = level + inside, _add(parts, {"loss": inside})
                continue
            else:
                if isinstance(entry, Accumulate) and not self.at.accumulating:
                    continue
                alloc = self.born(entry.ref, layer)
                size, component = -self.sizes[alloc.size], alloc.component
            level += size
            parts[component] = parts.get(component, 0) + size
            if level > high:
                high, high_parts = level, dict(parts)
        return _Effect(level, parts, high, high_parts)

    def macro_peak(self, call: MacroCall) -> int:
        """The highest point inside a macro."""
        return macro_peak(self.program, call, self.values, self.at.quantum_bytes)

    def fused_head(self, call: MacroCall) -> fused_loss.FusedHead:
        """A fused-loss macro's sizes here."""
        return _fused_head(self.program, call, self.values)


@lru_cache(maxsize=16)
def _neighbourhoods(kinds: tuple[str, ...], radius: int) -> tuple[str, ...]:
    return tuple(neighbourhood(kinds, layer, radius) for layer in range(len(kinds)))


def macro_peak(program: Program, call: MacroCall, values: Mapping[str, int], quantum_bytes: int) -> int:
    """The highest point inside a macro at these sizes."""
    walk = fused_loss.forward if call.name == "fused_forward" else fused_loss.backward
    return fused_loss.peak(walk(_fused_head(program, call, values, whole=False)), quantum_bytes)


def _fused_head(
    program: Program, call: MacroCall, values: Mapping[str, int], *, whole: bool = True
) -> fused_loss.FusedHead:
    fields: dict[str, Any] = {name: size.evaluate(values) for name, size in call.sizes}
    fields |= dict(call.flags)
    return fused_loss.FusedHead(**fields, in_place=program.key.mode.route == "cuda", whole=whole)


def _add(one: dict[Component, int], other: dict[Component, int]) -> dict[Component, int]:
    out = dict(one)
    for component, change in other.items():
        out[component] = out.get(component, 0) + change
    return {component: size for component, size in out.items() if size}
