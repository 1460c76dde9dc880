"""A memory program with FSDP2's gathers and reductions put in where they happen.

What the model itself allocates stays as it was traced. Around each unit (units.py) a rank adds:

    forward of a unit   the buffer of the all-gather; the buffer of the unit before goes only now, so that copying out
                        overlaps the next gather; the parameters, whole. They go after the forward, but in tail and root
    backward of a unit  the parameters, whole; its buffer goes; the next unit's is gathered ahead. At the end the
                        parameters go, the reduction buffer before goes, the gradients are copied into a new one and go,
                        and their shards come back: one tensor

Each layer becomes a kind of its own, so that every reference finds its allocation.
Source: torch/distributed/fsdp/_fully_shard/_fsdp_param_group.py (pre_forward, wait_for_unshard, pre_backward,
_backward_prefetch, post_backward), _fsdp_collectives.py (foreach_all_gather, foreach_reduce), torch 2.13.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.units import Unit, Units, product
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

GATHER, REDUCE = "FSDP2|all-gather", "FSDP2|reduce-scatter"
"""How the labels of buffers begin that are allocated on streams of their own."""
Place = tuple[str, int | None]
"""A segment, and the layer it is at."""


class _Name(NamedTuple):
    """An allocation of the written program."""

    place: Place
    ordinal: int


def fsdp_replay(
    replay: Replay,
    units: Units,
    world: int,
    *,
    whole_model: bool,
    standard_loss: bool,
    offloaded: bool = False,
) -> Replay:
    """The micro step of one rank of ``world``.

    Args:
        whole_model: the base trains, so accelerate saw the final norm and put it with the head.
        standard_loss: the output head is called; else TRL's loss takes its weight.
        offloaded: shards of parameters and gradients are in host memory.
    """
    return _Writer(replay, units, world, whole_model, standard_loss, offloaded).written()


class _Writer:
    """Writes the program anew, place by place."""

    def __init__(
        self, replay: Replay, units: Units, world: int, whole_model: bool, standard_loss: bool, offloaded: bool
    ) -> None:
        self.replay, self.units, self.world = replay, units, world
        self.whole_model, self.standard_loss, self.offloaded = whole_model, standard_loss, offloaded
        self.quantum = replay.at.quantum_bytes
        self.sizes = list(replay.program.sizes)
        self.labels = list(replay.program.labels)
        self.entries: dict[tuple[int, int | None], list[Entry]] = {}
        """By block and layer; a segment may be written in several blocks."""
        self.names: dict[Place, list[_Name]] = {}
        self.born: dict[Place, int] = {}
        self.place: Place = ("", None)
        self.here: list[Entry] = []
        self.whole: dict[int, list[_Name]] = {}
        self.buffer: _Name | None = None
        """Of the latest gather, until the next one is copied out."""
        self.ahead: tuple[Unit, _Name] | None = None
        """Gathered, not yet copied out."""
        self.reducing: _Name | None = None
        self.gradients: dict[int, list[_Name]] = {}
        self.head: _Name | None = None
        self.logits: tuple[int, int] | None = None

    # -------------------------------------------------------------- the step
    def written(self) -> Replay:
        numbers = {id(block): number for number, block in enumerate(self.replay.program.blocks)}
        steps = list(self.replay.blocks())
        stretches = [_stretch(block.segment, layer) for block, layer, _ in steps]
        first = {stretch: index for index, stretch in reversed(list(enumerate(stretches)))}
        last = {stretch: index for index, stretch in enumerate(stretches)}
        backward = max(index for (segment, _), index in last.items() if segment.startswith("backward"))
        self.logits = self._logits_gradient(steps) if self.standard_loss else None
        for index, (block, layer, template) in enumerate(steps):
            segment = block.segment
            self.place = (segment, layer)
            self.here = self.entries[numbers[id(block)], layer] = []
            if index == first[stretches[index]]:
                self._before(segment, layer)
            self._body(index, segment, layer, self.replay.program.templates[template])
            if index == last[stretches[index]]:
                self._after(segment, layer)
            if index == backward:
                self._final()
        return self._assembled()

    def _before(self, segment: str, layer: int | None) -> None:
        match segment:
            case "forward.embed":
                self._gather_forward(self.units.root)
                self._gather_forward(self.units.tail if self.units.tied else self.units.embed)
            case "forward.layer":
                self._gather_forward(self._unit(layer))
            case "forward.head" if not self.units.tied and (self.whole_model or self.standard_loss):
                self._gather_forward(self.units.tail)
            case "backward.head" if not self.standard_loss:
                self._prefetch(self.units.layers[-1])
            case "backward.layer":
                assert layer is not None
                self._gather_backward(self._unit(layer))
                self._prefetch(self.units.layers[layer - 1] if layer else self.units.embed)
            case "backward.embed":
                self._gather_backward(self.units.embed)

    def _after(self, segment: str, layer: int | None) -> None:
        match segment:
            case "forward.layer":
                self._reshard(self._unit(layer))
            case "forward.head" if self.buffer is not None:
                self._free(self.buffer)
                self.buffer = None
            case "backward.head" if not self.units.tied:
                self._reduce(self.units.tail)
            case "backward.layer":
                self._reduce(self._unit(layer))

    def _final(self) -> None:
        """What waits for the end of the backward: units whose inputs have no gradient, and the last buffers."""
        for unit in (self.units.root, self.units.tail if self.units.tied else self.units.embed):
            self._reduce(unit)
        if self.ahead is not None:
            self._free(self.ahead[1])
            self.ahead = None
        if self.reducing is not None:
            self._free(self.reducing)

    def _unit(self, layer: int | None) -> Unit:
        assert layer is not None
        return self.units.layers[layer]

    def _body(self, number: int, segment: str, layer: int | None, entries: tuple[Entry, ...]) -> None:
        """The entries as they were, and what happens among them."""
        for index, entry in enumerate(entries):
            if (number, index) == self.logits:
                self._prefetch(self.units.layers[-1])
            if isinstance(entry, Alloc):
                self.names.setdefault(self.place, []).append(self._append(entry))
                if segment == "forward.embed":  # its first tensor is the embeddings
                    self._reshard(self.units.embed)
            elif isinstance(entry, MacroCall):
                self._macro(entry)
            elif isinstance(entry, Accumulate):
                self.gradients.setdefault(id(self._owner(segment, layer)), []).append(self._named(entry.ref, layer))
            else:
                self._free(self._named(entry.ref, layer))

    def _macro(self, call: MacroCall) -> None:
        """TRL's loop, with the head taken whole where FSDP2 never saw it called (trl/trainer/utils.py,
        add_fused_lm_head)."""
        apart = not self.units.tied and not self.whole_model
        if apart and call.name == "fused_forward":
            size = self.units.tail.gather_bytes(self.world)
            self.head = self._alloc(size, "gathered", "lm_head|full_tensor|whole")
        self.here.append(call)
        if call.name == "fused_backward" and self.head is not None:
            self._free(self.head)
            self.head = None

    def _owner(self, segment: str, layer: int | None) -> Unit:
        """Whose gradients are accumulated in a segment."""
        if segment == "backward.layer":
            return self._unit(layer)
        return self.units.tail if segment == "backward.head" or self.units.tied else self.units.embed

    def _logits_gradient(self, steps: list[tuple[Block, int | None, int]]) -> tuple[int, int]:
        """Where the logits' gradient is whole, as (block, entry): the allocation after the last tensor of the logits'
        order of size; a gradient of the head's weight is none."""
        head = {product(each.shape) * each.gathered_bytes for each in self.units.tail.parameters}
        allocs = [
            (number, index, self.replay.sizes[entry.size])
            for number, (block, _, template) in enumerate(steps)
            for index, entry in enumerate(self.replay.program.templates[template])
            if block.segment == "backward.head" and isinstance(entry, Alloc)
        ]
        largest = max(size for _, _, size in allocs if size not in head)
        last = max(at for at, (_, _, size) in enumerate(allocs) if 2 * size >= largest and size not in head)
        return allocs[min(last + 1, len(allocs) - 1)][:2]

    # -------------------------------------------------------------- what FSDP2 does
    def _gather(self, unit: Unit) -> _Name:
        copy_in = unit.copy_in_bytes(self.world)
        cast = self._alloc(copy_in, "gathered", f"{GATHER}|shards cast") if copy_in else None
        buffer = self._alloc(unit.gather_bytes(self.world), "gathered", f"{GATHER}|buffer")
        if cast is not None:
            self._free(cast)
        return buffer

    def _copy_out(self, unit: Unit) -> None:
        sizes = unit.whole_bytes(self.world, 1)
        self.whole[id(unit)] = [self._alloc(size, "gathered", "FSDP2|parameters|whole") for size in sizes]

    def _gather_forward(self, unit: Unit) -> None:
        if not unit:
            return
        buffer = self._gather(unit)
        if self.buffer is not None:
            self._free(self.buffer)
        self._copy_out(unit)
        self.buffer = buffer

    def _prefetch(self, unit: Unit) -> None:
        if unit:
            self.ahead = (unit, self._gather(unit))

    def _gather_backward(self, unit: Unit) -> None:
        if self.ahead is not None and self.ahead[0] is unit:
            self._copy_out(unit)
            self._free(self.ahead[1])
            self.ahead = None

    def _reshard(self, unit: Unit) -> None:
        for name in self.whole.pop(id(unit), []):
            self._free(name)

    def _reduce(self, unit: Unit) -> None:
        """The end of a unit's backward."""
        if not unit:
            return
        self._reshard(unit)
        if self.reducing is not None:
            self._free(self.reducing)
            self.reducing = None
        grads = self.gradients.pop(id(unit), [])
        if not grads:
            return
        self.reducing = self._alloc(unit.reduce_bytes(self.world), "communication", f"{REDUCE}|whole gradients")
        for name in grads:
            self._free(name)
        back, kept = unit.reduced_bytes(self.world), unit.gradient_bytes(self.world)
        shards = self._alloc(back, "gradients" if back == kept else "communication", f"{REDUCE}|shards")
        if back != kept:
            cast = self._alloc(kept, "gradients", f"{REDUCE}|shards in fp32")
            self._free(shards)
            shards = cast
        if self.replay.at.accumulating or self.offloaded:
            self._free(shards)

    # -------------------------------------------------------------- entries
    def _append(self, entry: Alloc) -> _Name:
        name = _Name(self.place, self.born.get(self.place, 0))
        self.born[self.place] = name.ordinal + 1
        self.here.append(entry)
        return name

    def _alloc(self, size_bytes: int, component: Component, label: str) -> _Name:
        self.sizes.append(Size(size_bytes))
        if label not in self.labels:
            self.labels.append(label)
        return self._append(Alloc(len(self.sizes) - 1, component, self.labels.index(label)))

    def _free(self, name: _Name) -> None:
        segment, layer = name.place
        offset = None if layer is None else layer - (self.place[1] or 0)
        self.here.append(Free(Ref(segment, offset, name.ordinal)))

    def _named(self, ref: Ref, layer: int | None) -> _Name:
        at = None if ref.offset is None else ((layer or 0) + ref.offset) % len(self.replay.at.kinds)
        return self.names[ref.segment, at][ref.ordinal]

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
            for (of, layer), entries in self.entries.items():
                if of == number:
                    chosen.append(("" if layer is None else neighbourhood(kinds, layer, 0), len(templates)))
                    templates.append(tuple(entries))
            yield block._replace(templates=tuple(chosen))


def _stretch(segment: str, layer: int | None) -> Place:
    """What has one beginning and one end: a layer's forward or backward, else a segment."""
    return segment, layer if segment.endswith(".layer") else None
