"""Fold traces of one structure at several sizes into a memory program.

The traces must agree event by event; their sizes become monomials (symbols.py). Layers with the same neighbourhood
must do the same thing, and become one template that stands for any number of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.stack import MINIMUM_FOLDED_DEPTH
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import (
    Accumulate,
    Alloc,
    Anchor,
    Block,
    Entry,
    Free,
    MacroCall,
    Program,
    Ref,
    Size,
    neighbourhood,
    stack_bounds,
    stack_name,
)
from vramplan.planner.trace.symbols import Symbols
from vramplan.planner.trace.tracker import Event, Tracker

STATIC_TAGS = {"weight", "buffer", "quantization_state", "batch"}


class FoldError(Exception):
    """These traces do not make one program: they differ, or equal neighbourhoods behave differently."""


@dataclass
class _Run:
    """Consecutive events of one segment at one layer (or outside the layers)."""

    segment: str
    layer: int | None
    events: list[Event] = field(default_factory=list)


def fold(
    key: ProgramKey,
    traces: Sequence[Tracker],
    values: Sequence[dict[str, int]],
    kinds: Sequence[str],
    versions: dict[str, str],
    *,
    radius: int = 1,
) -> Program:
    """Traces of the same structure at different sizes -> a Program.

    Args:
        values: every variable's value in each trace, derived ones included.
        kinds: the kind of each layer of the traces.

    Raises:
        FoldError: see the class.
        NoSymbolError: a size is no monomial of the variables.
    """
    return _Folder(key, traces, values, list(kinds), versions, radius).program()


class _Folder:
    def __init__(
        self,
        key: ProgramKey,
        traces: Sequence[Tracker],
        values: Sequence[dict[str, int]],
        kinds: list[str],
        versions: dict[str, str],
        radius: int,
    ) -> None:
        self.key, self.traces, self.kinds, self.versions, self.radius = key, traces, kinds, versions, radius
        self.symbols = Symbols(values)
        self.base = traces[0]
        self.sizes: dict[Size, int] = {}
        self.labels: dict[str, int] = {}
        self.templates: dict[tuple[Entry, ...], int] = {}
        self.names: dict[int, tuple[str, int | None, int]] = {}
        self.storage_size: dict[int, tuple[int, str]] = {}

    def program(self) -> Program:
        streams = [canonical(trace) for trace in self.traces]
        self._check_agreement(streams)
        self._name_storages(streams)
        self.forward_deaths = {
            event.storage for event in streams[0] if event.kind == "free" and event.segment[0].startswith("forward")
        }
        blocks = self._blocks(_runs(streams[0], self.base))
        buffers = tuple((self._size_index(s.index)[0], s.label) for s in self.base.storages if s.tag == "buffer")
        return Program(
            key=self.key,
            versions=self.versions,
            radius=self.radius,
            sizes=tuple(self.sizes),
            labels=tuple(self.labels),
            templates=tuple(self.templates),
            blocks=tuple(blocks),
            buffers=buffers,
        )

    # -------------------------------------------------------------- agreement and names
    def _check_agreement(self, streams: list[list[Event]]) -> None:
        names = [
            [(event.kind, event.segment, _birth(trace, event)) for event in stream]
            for stream, trace in zip(streams, self.traces, strict=True)
        ]
        for other in names[1:]:
            if other != names[0]:
                at = next((i for i, (a, b) in enumerate(zip(names[0], other, strict=False)) if a != b), len(other))
                raise FoldError(f"traces differ at event {at}: {names[0][at : at + 1]} and {other[at : at + 1]}")

    def _name_storages(self, streams: list[list[Event]]) -> None:
        counts: dict[tuple[str, int | None], int] = {}
        self.twins: dict[int, list[int]] = {}
        columns = [[event for event in stream if event.kind == "alloc"] for stream in streams]
        for events in zip(*columns, strict=True):
            event = events[0]
            ordinal = counts.get(event.segment, 0)
            counts[event.segment] = ordinal + 1
            self.names[event.storage] = (*event.segment, ordinal)
            self.twins[event.storage] = [each.storage for each in events]

    # -------------------------------------------------------------- sizes
    def _size_index(self, storage: int) -> tuple[int, str]:
        if storage not in self.storage_size:
            indices = self.twins.get(storage, [storage] * len(self.traces))
            stored = [trace.storages[i] for trace, i in zip(self.traces, indices, strict=True)]
            size, text = self.symbols.size(
                [each.shape for each in stored], stored[0].dtype.itemsize, tuple(each.nbytes for each in stored)
            )
            self.storage_size[storage] = (self.sizes.setdefault(size, len(self.sizes)), text)
        return self.storage_size[storage]

    def _component(self, storage: int) -> Component:
        stored = self.base.storages[storage]
        segment = stored.segment[0]
        if stored.tag == "gradient":
            return "gradients"
        if segment.endswith(".head") or segment == "carried":
            return "loss"
        if segment == "carried.layer":
            return "activations"
        if segment.startswith("forward"):
            return "temporaries" if storage in self.forward_deaths else "activations"
        return "activations" if stored.tag == "recompute" else "temporaries"

    # -------------------------------------------------------------- blocks
    def _blocks(self, runs: list[_Run]) -> list[Block]:
        blocks: list[Block] = []
        index = 0
        while index < len(runs):
            run = runs[index]
            if run.layer is None:
                template = self._template(self._encode(run))
                blocks.append(Block(run.segment, (("", template),)))
                index += 1
                continue
            stop = self._sweep_end(runs, index)
            blocks.append(self._sweep(runs[index:stop]))
            index = stop
        return blocks

    def _sweep_end(self, runs: list[_Run], start: int) -> int:
        """The end of the longest stretch of runs whose layers go up, or down, one by one."""
        stop, step = start + 1, 0
        while stop < len(runs) and runs[stop].segment == runs[start].segment:
            here, before = runs[stop].layer, runs[stop - 1].layer
            if here is None or before is None or abs(here - before) != 1 or (step and here - before != step):
                break
            if stack_name(self.kinds[here]) != stack_name(self.kinds[before]):
                break
            step = here - before
            stop += 1
        return stop

    def _sweep(self, runs: list[_Run]) -> Block:
        depth = len(self.kinds)
        chosen: dict[str, int] = {}
        for run in runs:
            assert run.layer is not None
            around = neighbourhood(self.kinds, run.layer, self.radius)
            template = self._template(self._encode(run))
            if chosen.setdefault(around, template) != template:
                raise FoldError(f"layers around [{around}] differ in {run.segment} (layer {run.layer} of {depth})")
        layers = [run.layer for run in runs if run.layer is not None]
        first, last = (_anchor(layer, self.kinds) for layer in (layers[0], layers[-1]))
        step = 1 if layers[-1] >= layers[0] else -1
        return Block(runs[0].segment, tuple(chosen.items()), first, last, step)

    def _template(self, entries: tuple[Entry, ...]) -> int:
        return self.templates.setdefault(entries, len(self.templates))

    def _encode(self, run: _Run) -> tuple[Entry, ...]:
        entries: list[Entry] = []
        for event in run.events:
            if event.kind == "macro":
                entries.append(self._macro(event.storage))
            elif event.kind == "alloc":
                size, shape = self._size_index(event.storage)
                label = self._label(event.storage, shape)
                entries.append(Alloc(size, self._component(event.storage), label))
            else:
                segment, layer, ordinal = self.names[event.storage]
                offset = None if layer is None else layer - (run.layer if run.layer is not None else layer)
                ref = Ref(segment, offset, ordinal)
                entries.append(Free(ref) if event.kind == "free" else Accumulate(ref))
        return tuple(entries)

    def _label(self, storage: int, shape: str) -> int:
        stored = self.base.storages[storage]
        dtype = str(stored.dtype).removeprefix("torch.")
        text = f"{stored.label}|{stored.op.removesuffix('.default')}|{shape} {dtype}"
        return self.labels.setdefault(text, len(self.labels))

    def _macro(self, index: int) -> MacroCall:
        macros = [trace.macros[index] for trace in self.traces]
        sizes = []
        for name in macros[0].sizes:
            dim = self.symbols.dim(tuple(macro.sizes[name] for macro in macros))
            sizes.append((name, Size(dim.coefficient, dim.atoms)))
        return MacroCall(macros[0].name, tuple(sizes), tuple(sorted(macros[0].flags.items())))


def canonical(trace: Tracker) -> list[Event]:
    """The step's events: static storages left out, and each unbroken run of frees sorted by birth, because the order
    in which a cache drops its entries is chance and does not change what is allocated or free."""
    static = {s.index for s in trace.storages if s.segment[0] == "init"}
    events = [e for e in trace.events if e.kind == "macro" or e.storage not in static]
    out: list[Event] = []
    frees: list[Event] = []
    for event in [*events, None]:
        if event is not None and event.kind == "free" and (not frees or frees[0].segment == event.segment):
            frees.append(event)
            continue
        frees.sort(key=lambda e: e.storage)
        out += frees
        frees = [event] if event is not None and event.kind == "free" else []
        if event is not None and event.kind != "free":
            out.append(event)
    return out


def _birth(trace: Tracker, event: Event) -> Any:
    """What an event is about, in terms two traces share."""
    return None if event.kind in ("alloc", "macro") else trace.storages[event.storage].segment


def _runs(stream: list[Event], trace: Tracker) -> list[_Run]:
    """Split by segment and layer. Outside the layers, an event about a layer's storage belongs to that layer."""
    runs: list[_Run] = []
    for event in stream:
        segment, layer = event.segment
        if layer is None and event.kind in ("free", "accumulate"):
            layer = trace.storages[event.storage].segment[1]
        if not runs or (runs[-1].segment, runs[-1].layer) != (segment, layer):
            runs.append(_Run(segment, layer))
        runs[-1].events.append(event)
    return runs


def _anchor(layer: int, kinds: Sequence[str]) -> Anchor:
    bounds = stack_bounds(kinds)
    stack = next(index for index, (_, stop) in enumerate(bounds) if layer < stop)
    start, stop = bounds[stack]
    before, after = layer - start, stop - 1 - layer
    if before < after:
        return Anchor(False, before, stack)
    if before > after:
        return Anchor(True, after, stack)
    if stop - start < MINIMUM_FOLDED_DEPTH:
        return Anchor(False, before, stack)  # the program is of this very depth
    raise FoldError(f"a stretch of layers ends at layer {layer}, the middle of its stack: no telling from which end")
