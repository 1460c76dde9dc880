"""A memory program written anew, with what a rank of several adds put in where it happens.

What the model itself allocates stays as it was traced; a subclass says what comes and goes around it. Each layer
becomes a kind of its own, so that every reference finds its allocation.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.replay import Replay
from vramplan.planner.programs.program import (
    Accumulate,
    Alloc,
    Block,
    Entry,
    Free,
    MacroCall,
    Ref,
    Size,
    neighbourhood,
)

Place = tuple[str, int | None]
"""A segment, and the layer it is at."""


class Name(NamedTuple):
    """An allocation of the written program."""

    place: Place
    ordinal: int


class Step(NamedTuple):
    """One block at one layer, and its template."""

    block: Block
    layer: int | None
    template: int


class Rewriter:
    """Writes a program place by place; the methods that do nothing here are the subclass's to fill."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.quantum = replay.at.quantum_bytes
        self.steps = [Step(*step) for step in replay.blocks()]
        self.place: Place = ("", None)
        self.sizes = list(replay.program.sizes)
        self._size_bytes = [size.evaluate(replay.values) for size in self.sizes]
        self.labels = list(replay.program.labels)
        self._label_numbers = {label: number for number, label in enumerate(self.labels)}
        self._entries: dict[tuple[int, int | None], list[Entry]] = {}
        """By block and layer; a segment may be written in several blocks."""
        self._names: dict[Place, list[Name]] = {}
        self._bytes: dict[Name, int] = {}
        self._born: dict[Place, int] = {}
        self._here: list[Entry] = []

    # -------------------------------------------------------------- for the subclass
    def before(self, segment: str, layer: int | None) -> None:
        """A stretch begins: a layer's forward or backward, or a segment outside the layers."""

    def after(self, segment: str, layer: int | None) -> None:
        """A stretch has ended."""

    def entry(self, number: int, index: int, entry: Entry) -> None:
        """Before an entry of the program, named by its step's number and its own in the template."""

    def allocated(self, segment: str) -> None:
        """The model has allocated."""

    def accumulated(self, segment: str, layer: int | None, gradient: Name) -> None:
        """A parameter's gradient is complete; it lives until it is freed here."""

    def macro(self, call: MacroCall) -> None:
        """A loop of the program."""
        self._here.append(call)

    def final(self) -> None:
        """The last stretch of the backward has ended."""

    # -------------------------------------------------------------- the step
    def written(self) -> Replay:
        """The micro step of one rank."""
        numbers = {id(block): number for number, block in enumerate(self.replay.program.blocks)}
        stretches = [_stretch(step.block.segment, step.layer) for step in self.steps]
        first = {stretch: index for index, stretch in reversed(list(enumerate(stretches)))}
        last = {stretch: index for index, stretch in enumerate(stretches)}
        backward = max(index for (segment, _), index in last.items() if segment.startswith("backward"))
        for index, (block, layer, template) in enumerate(self.steps):
            segment = block.segment
            self.place = (segment, layer)
            self._here = self._entries[numbers[id(block)], layer] = []
            if index == first[stretches[index]]:
                self.before(segment, layer)
            self._body(index, segment, layer, self.replay.program.templates[template])
            if index == last[stretches[index]]:
                self.after(segment, layer)
            if index == backward:
                self.final()
        return self._assembled()

    def _body(self, number: int, segment: str, layer: int | None, entries: tuple[Entry, ...]) -> None:
        for index, entry in enumerate(entries):
            self.entry(number, index, entry)
            if isinstance(entry, Alloc):
                self._names.setdefault(self.place, []).append(self._append(entry))
                self.allocated(segment)
            elif isinstance(entry, MacroCall):
                self.macro(entry)
            elif isinstance(entry, Accumulate):
                self.accumulated(segment, layer, self._named(entry.ref, layer))
            else:
                self.free(self._named(entry.ref, layer))

    def logits_gradient(self, head: set[int]) -> tuple[int, int]:
        """Where the logits' gradient is whole, as (step, entry): the allocation after the last tensor of the logits'
        order of size; a gradient of the head's weight, whose bytes are among ``head``, is none."""
        allocs = [
            (number, index, self.replay.sizes[entry.size])
            for number, (block, _, template) in enumerate(self.steps)
            for index, entry in enumerate(self.replay.program.templates[template])
            if block.segment == "backward.head" and isinstance(entry, Alloc)
        ]
        largest = max(size for _, _, size in allocs if size not in head)
        last = max(at for at, (_, _, size) in enumerate(allocs) if 2 * size >= largest and size not in head)
        return allocs[min(last + 1, len(allocs) - 1)][:2]

    # -------------------------------------------------------------- entries
    def alloc(self, size_bytes: int, component: Component, label: str) -> Name:
        """A tensor of the rank's own."""
        self.sizes.append(Size(size_bytes))
        self._size_bytes.append(size_bytes)
        if label not in self._label_numbers:
            self._label_numbers[label] = len(self.labels)
            self.labels.append(label)
        return self._append(Alloc(len(self.sizes) - 1, component, self._label_numbers[label]))

    def free(self, name: Name) -> None:
        """It goes."""
        segment, layer = name.place
        offset = None if layer is None else layer - (self.place[1] or 0)
        self._here.append(Free(Ref(segment, offset, name.ordinal)))

    def passing(self, size_bytes: int, component: Component, label: str) -> None:
        """A tensor that comes and goes at once."""
        self.free(self.alloc(size_bytes, component, label))

    def size_of(self, name: Name) -> int:
        """Bytes of an allocation, not rounded."""
        return self._bytes[name]

    def _append(self, entry: Alloc) -> Name:
        name = Name(self.place, self._born.get(self.place, 0))
        self._born[self.place] = name.ordinal + 1
        self._bytes[name] = self._size_bytes[entry.size]
        self._here.append(entry)
        return name

    def _named(self, ref: Ref, layer: int | None) -> Name:
        at = None if ref.offset is None else ((layer or 0) + ref.offset) % len(self.replay.at.kinds)
        return self._names[ref.segment, at][ref.ordinal]

    # -------------------------------------------------------------- the program
    def _assembled(self) -> Replay:
        kinds = tuple(f"{kind}#{layer}" for layer, kind in enumerate(self.replay.at.kinds))
        templates: list[tuple[Entry, ...]] = []
        blocks = list(self._blocks(kinds, templates))
        program = replace(
            self.replay.program,
            radius=0,
            sizes=tuple(self.sizes),
            labels=tuple(self.labels),
            templates=tuple(templates),
            blocks=tuple(blocks),
        )
        return Replay(program, replace(self.replay.at, kinds=kinds))

    def _blocks(self, kinds: tuple[str, ...], templates: list[tuple[Entry, ...]]) -> Iterator[Block]:
        for number, block in enumerate(self.replay.program.blocks):
            chosen = []
            for (of, layer), entries in self._entries.items():
                if of == number:
                    chosen.append(("" if layer is None else neighbourhood(kinds, layer, 0), len(templates)))
                    templates.append(tuple(entries))
            yield block._replace(templates=tuple(chosen))


def _stretch(segment: str, layer: int | None) -> Place:
    """What has one beginning and one end: a layer's forward or backward, else a segment."""
    return segment, layer if segment.endswith(".layer") else None
