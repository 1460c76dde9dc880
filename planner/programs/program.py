"""A memory program: the allocations and frees of one micro step, sizes as monomials, layers as templates.

    sizes       bytes = coefficient x product(atoms) x ceil(product(divided) / divisor)
    templates   what happens in one segment of the step, at one layer or outside the layers
    blocks      the templates in order; a *sweep* repeats over layers, its template chosen by the neighbourhood

A template's entries: an allocation (size, component, label), a free or accumulation of an earlier allocation
(segment, layer offset, ordinal), or a macro (a loop whose length depends on the sizes, replayed by its own module).
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vramplan.planner.memory.budget import Component
from vramplan.planner.programs.key import ProgramKey


class Size(NamedTuple):
    """coefficient x product(atoms) x ceil(product(divided) / divisor) bytes."""

    coefficient: int
    atoms: tuple[str, ...] = ()
    divisor: int = 1
    divided: tuple[str, ...] = ()

    def evaluate(self, values: Mapping[str, int]) -> int:
        """Bytes at these sizes.

        >>> Size(2, ("B", "S", "h")).evaluate({"B": 2, "S": 3, "h": 4})
        48
        """
        total = self.coefficient
        for atom in self.atoms:
            total *= values[atom]
        if self.divisor > 1:
            product = 1
            for atom in self.divided:
                product *= values[atom]
            total *= -(-product // self.divisor)
        return total


class Alloc(NamedTuple):
    """A storage comes to life."""

    size: int
    """Index into Program.sizes."""
    component: Component
    label: int
    """Index into Program.labels."""


class Ref(NamedTuple):
    """An earlier allocation, seen from a template."""

    segment: str
    offset: int | None
    """Layers away; None: outside the layers."""
    ordinal: int
    """Which allocation of that segment (and layer)."""


class Free(NamedTuple):
    """That storage dies."""

    ref: Ref


class Accumulate(NamedTuple):
    """That gradient is complete: with gradient accumulation it is added to the one kept and dies here."""

    ref: Ref


class MacroCall(NamedTuple):
    """A loop whose length depends on the sizes."""

    name: str
    sizes: tuple[tuple[str, Size], ...]
    flags: tuple[tuple[str, Any], ...]


Entry = Alloc | Free | Accumulate | MacroCall


class Anchor(NamedTuple):
    """A layer counted from the start (``from_end`` False) or from the end (0 is the last) of its stack."""

    from_end: bool
    distance: int
    stack: int = 0

    def at(self, kinds: Sequence[str]) -> int:
        start, stop = stack_bounds(kinds)[self.stack]
        return stop - 1 - self.distance if self.from_end else start + self.distance


class Block(NamedTuple):
    """One stretch of the step. Without ``first``: one template outside the layers. With it: a sweep over layers
    ``first`` to ``last`` (in that direction), the template chosen by each layer's neighbourhood."""

    segment: str
    templates: tuple[tuple[str, int], ...]
    """(neighbourhood, index into Program.templates); the neighbourhood is empty outside the layers."""
    first: Anchor | None = None
    last: Anchor | None = None
    step: int = 1


@dataclass(frozen=True)
class Program:
    """See the module."""

    key: ProgramKey
    versions: dict[str, str]
    radius: int
    """Neighbours on each side that decide a layer's template."""
    sizes: tuple[Size, ...]
    labels: tuple[str, ...]
    templates: tuple[tuple[Entry, ...], ...]
    blocks: tuple[Block, ...]
    buffers: tuple[tuple[int, str], ...] = ()
    """Static buffers on the device: (size index, label)."""


STACKS = ("encoder", "decoder")
"""What the kinds of layers begin with, up to a colon, where a model has two stacks."""
FROZEN = "frozen"
"""What they begin with where layers below the last blocks do not train: a stack of their own, which has no backward."""


@functools.lru_cache(maxsize=1024)  # asked for every layer of every replay
def stack_name(kind: str) -> str | None:
    """Which of several stacks a kind of layer belongs to; None where there is one.

    >>> stack_name("encoder:k0"), stack_name("frozen:decoder:k0"), stack_name("full_attention")
    ('encoder', 'frozen:decoder', None)
    """
    names = itertools.takewhile(lambda part: part in (*STACKS, FROZEN), kind.split(":"))
    return ":".join(names) or None


def stack_bounds(kinds: Sequence[str]) -> list[tuple[int, int]]:
    """Where each stack of layers begins and ends.

    >>> stack_bounds(("encoder:a", "encoder:a", "decoder:b"))
    [(0, 2), (2, 3)]
    """
    stops = [at for at in range(1, len(kinds)) if stack_name(kinds[at]) != stack_name(kinds[at - 1])]
    return list(itertools.pairwise([0, *stops, len(kinds)]))


def neighbourhood(kinds: tuple[str, ...] | list[str], layer: int, radius: int) -> str:
    """A layer's kind between its neighbours'; ``^`` and ``$`` stand beyond the ends. Away from the ends they also mark
    the first and the last layer of a kind, where what its layers share (a mask, rotary tables) begins or ends.

    >>> neighbourhood(("a", "b", "a"), 0, 1)
    '^ a b'
    >>> neighbourhood(("a", "b", "a", "b", "a", "b", "a"), 1, 1)
    'a ^b a'
    """
    depth = len(kinds)
    names = []
    for index in range(layer - radius, layer + radius + 1):
        names.append("^" if index < 0 else "$" if index >= depth else kinds[index])
    kind = kinds[layer]
    first = layer > 0 and kind not in kinds[:layer]
    last = layer < depth - 1 and kind not in kinds[layer + 1 :]
    names[radius] = f"{'^' if first else ''}{kind}{'$' if last else ''}"
    return " ".join(names)
