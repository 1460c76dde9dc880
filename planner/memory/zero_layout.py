"""How DeepSpeed lays what trains out in flat groups, and what of it is each rank's.

Stages 1 and 2 put the parameters of each of the optimizer's groups one after the other into one tensor, padded to a
multiple of two elements a rank, and cut that into equal parts (deepspeed/runtime/zero/stage_1_and_2.py, __init__ and
get_data_parallel_partitions). Stage 3 cuts every parameter (partition_parameters.py, _partition_param).
"""

from collections.abc import Iterator
from dataclasses import dataclass

from vramplan.planner.memory.units import Parameter, Unit, Units, product

ALIGNMENT = 2
"""nccl_start_alignment_factor."""


@dataclass(frozen=True)
class Flat:
    """One parameter in its group."""

    numel: int
    group: int
    offset: int
    """Of its first element in the group."""


@dataclass
class Layout:
    """What trains, in the optimizer's groups: what decays, and what does not (transformers/trainer.py,
    create_optimizer)."""

    world: int
    layers: list[list[Flat]]
    """Of each layer, in the model's order."""
    outside: list[Flat]
    """Of the rest."""
    groups: list[int]
    """Elements of each group, padding included."""

    @classmethod
    def of(cls, units: Units, world: int) -> "Layout":
        """Of a model."""
        ends = [0, 0]

        def placed(unit: Unit) -> list[Flat]:
            out = []
            for each in unit.trained:
                numel, group = product(each.shape), int(not each.decays)
                out.append(Flat(numel, group, ends[group]))
                ends[group] += numel
            return out

        before = placed(units.embed) + placed(units.root)
        layers = [placed(unit) for unit in units.layers]
        outside = before + placed(units.tail)
        step = ALIGNMENT * world
        return cls(world, layers, outside, [-(-end // step) * step for end in ends])

    @property
    def parts(self) -> list[int]:
        """Elements of one rank's part of each group that is not empty."""
        return [group // self.world for group in self.groups if group]

    def owners(self, flat: Flat) -> Iterator[tuple[int, int]]:
        """(rank, elements of the parameter that are in its part), in order."""
        part = self.groups[flat.group] // self.world
        at, end = flat.offset, flat.offset + flat.numel
        while at < end:
            rank = at // part
            upto = min(end, (rank + 1) * part)
            yield rank, upto - at
            at = upto

    def in_order(self) -> list[Flat]:
        """Group after group, as the optimizer holds them."""
        every = [*(flat for layer in self.layers for flat in layer), *self.outside]
        return sorted(every, key=lambda flat: (flat.group, flat.offset))

    def touched_numel(self) -> int:
        """Elements of all parameters that are in a rank's part, if only with one element: of the rank with most."""
        changes = [0] * (self.world + 1)
        for flat in self.in_order():
            ranks = [rank for rank, _ in self.owners(flat)]
            changes[ranks[0]] += flat.numel
            changes[ranks[-1] + 1] -= flat.numel
        most = here = 0
        for change in changes:
            here += change
            most = max(most, here)
        return most

    def largest_piece(self) -> int:
        """Elements of the largest parameter's part that one rank has."""
        return max((min(flat.numel, self.groups[flat.group] // self.world) for flat in self.in_order()), default=0)


def part_numel(parameter: Parameter, world: int) -> int:
    """A rank's part of a parameter in stage 3.

    >>> part_numel(Parameter((5, 3), 2, 2, True), 4)
    4
    """
    return -(-product(parameter.shape) // world)
