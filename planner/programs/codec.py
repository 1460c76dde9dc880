"""Memory programs as compact JSON, and back."""

import json
from typing import Any, get_args

from vramplan.planner.memory.budget import Component
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
)

FORMAT = 1
COMPONENTS: tuple[Component, ...] = get_args(Component)
ALLOC, FREE, ACCUMULATE, MACRO = range(4)


def dump_program(program: Program) -> str:
    """A program as one line of JSON."""
    segments = list(dict.fromkeys(block.segment for block in program.blocks))
    out = {
        "format": FORMAT,
        "key": program.key.model_dump(mode="json", exclude_defaults=True),
        "versions": program.versions,
        "radius": program.radius,
        "segments": segments,
        "sizes": [[s.coefficient, list(s.atoms), s.divisor, list(s.divided)] for s in program.sizes],
        "labels": program.labels,
        "templates": [[_dump_entry(entry, segments) for entry in entries] for entries in program.templates],
        "blocks": [_dump_block(block, segments) for block in program.blocks],
        "buffers": program.buffers,
    }
    return json.dumps(out, separators=(",", ":"))


def load_program(text: str) -> Program:
    """A program from its JSON.

    Raises:
        ValueError: not a program of this format.
    """
    data = json.loads(text)
    written_as = data.get("format") if isinstance(data, dict) else None
    if written_as != FORMAT:
        raise ValueError(f"memory program format {written_as}, expected {FORMAT}")
    try:
        return _load(data)
    except (AttributeError, LookupError, TypeError) as problem:
        raise ValueError(f"damaged memory program: {problem!r}") from problem


def _load(data: dict[str, Any]) -> Program:
    segments = data["segments"]
    return Program(
        key=ProgramKey.model_validate(data["key"]),
        versions=data["versions"],
        radius=data["radius"],
        sizes=tuple(Size(c, tuple(atoms), divisor, tuple(divided)) for c, atoms, divisor, divided in data["sizes"]),
        labels=tuple(data["labels"]),
        templates=tuple(tuple(_load_entry(entry, segments) for entry in entries) for entries in data["templates"]),
        blocks=tuple(_load_block(block, segments) for block in data["blocks"]),
        buffers=tuple((size, label) for size, label in data["buffers"]),
    )


def _dump_entry(entry: Entry, segments: list[str]) -> list[Any]:
    if isinstance(entry, Alloc):
        return [ALLOC, entry.size, COMPONENTS.index(entry.component), entry.label]
    if isinstance(entry, MacroCall):
        sizes = [[name, size.coefficient, list(size.atoms)] for name, size in entry.sizes]
        return [MACRO, entry.name, sizes, entry.flags]
    ref = entry.ref
    kind = FREE if isinstance(entry, Free) else ACCUMULATE
    return [kind, segments.index(ref.segment), ref.offset, ref.ordinal]


def _load_entry(entry: list[Any], segments: list[str]) -> Entry:
    kind, first, second, third = entry
    if kind == ALLOC:
        return Alloc(first, COMPONENTS[second], third)
    if kind == MACRO:
        sizes = tuple((name, Size(coefficient, tuple(atoms))) for name, coefficient, atoms in second)
        return MacroCall(first, sizes, tuple((name, value) for name, value in third))
    return (Free, Accumulate)[kind - FREE](Ref(segments[first], second, third))


def _dump_block(block: Block, segments: list[str]) -> list[Any]:
    return [segments.index(block.segment), block.templates, block.first, block.last, block.step]


def _load_block(block: list[Any], segments: list[str]) -> Block:
    segment, templates, first, last, step = block
    return Block(
        segments[segment],
        tuple((around, template) for around, template in templates),
        None if first is None else Anchor(*first),
        None if last is None else Anchor(*last),
        step,
    )
