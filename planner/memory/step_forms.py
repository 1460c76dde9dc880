"""A memory program compiled for one stack of layers: the forms that can be its highest point, worked out once."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import itemgetter, mul
from typing import NamedTuple

from vramplan.planner.memory.budget import PhaseName
from vramplan.planner.memory.forms import Basis, Form
from vramplan.planner.memory.replay import PHASES, Replay
from vramplan.planner.programs.program import Accumulate, Alloc, MacroCall

OF_THE_MODEL = frozenset(("h", "f", "H", "K", "d", "V"))
"""Values that are the model's own, so the same in every setup it is trained in."""
GROUP = 8
"""Forms that follow each other in the step are alike: most groups of them are ruled out by one bound."""


class _Effect(NamedTuple):
    """What a template leaves behind, that without gradients, and the forms that can be its highest point."""

    net: Form
    net_held: Form
    highs: list[Form]


class PeakForms:
    """The peaks of a replay's program on its stack, at any batch, sequence, labels and rank of the program's regime.

    In a run of equal layers the level is linear in the layer, so only the run's first and last can be the highest.

    Args:
        replay: the program at one point of its regime.
    """

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self._basis = Basis(replay, varying=replay.at.values.keys() - OF_THE_MODEL)
        self._effects: dict[tuple[int, str], _Effect] = {}
        self._phases, self._end, self._held = self._step()
        highest = self._basis.undominated(form for forms in self._phases.values() for form in forms)
        self._groups = [_bounded(highest[first : first + GROUP]) for first in range(0, len(highest), GROUP)]

    def peak_bytes(self, values: Mapping[str, int]) -> int:
        """The highest point of the micro step above the static tensors, at these values of what is not fixed."""
        sizes = self._basis.evaluate(values)
        highest = 0
        bounds = [sum(map(mul, bound, sizes)) for bound, _ in self._groups]
        for bound, (_, forms) in sorted(zip(bounds, self._groups, strict=True), key=itemgetter(0), reverse=True):
            if bound <= highest:
                break
            highest = max(highest, *[sum(map(mul, form, sizes)) for form in forms])
        return highest

    def phase_peaks(self, values: Mapping[str, int]) -> dict[PhaseName, int]:
        """The same, phase by phase."""
        sizes = self._basis.evaluate(values)
        return {phase: max([sum(map(mul, form, sizes)) for form in forms]) for phase, forms in self._phases.items()}

    def end_bytes(self, values: Mapping[str, int]) -> int:
        """Still allocated when the micro step is done."""
        return sum(map(mul, self._end, self._basis.evaluate(values)))

    def held_bytes(self, values: Mapping[str, int]) -> int:
        """The same without gradients."""
        return sum(map(mul, self._held, self._basis.evaluate(values)))

    def _step(self) -> tuple[dict[PhaseName, list[Form]], Form, Form]:
        """Each phase's forms that can be its highest, the form left at the end, and that without gradients."""
        level = held = (0,) * self._basis.width
        highs: dict[PhaseName, list[Form]] = {}
        for (phase, template, around), visits in groupby(self._visits(), key=itemgetter(0, 1, 2)):
            run = list(visits)
            effect = self._effect(template, around, run[0][3])
            last = _plus(level, effect.net, len(run) - 1)
            starts = (level, last) if len(run) > 1 else (level,)
            highs.setdefault(phase, []).extend(_plus(start, high) for start in starts for high in effect.highs)
            level = _plus(last, effect.net)
            held = _plus(held, effect.net_held, len(run))
        return {phase: self._basis.undominated(forms) for phase, forms in highs.items()}, level, held

    def _visits(self) -> Iterator[tuple[PhaseName, int, str, int | None]]:
        """(phase, template, neighbourhood, layer) of every stretch of the step, in order."""
        for block, layer, template in self._replay.blocks():
            yield PHASES[block.segment], template, "" if layer is None else self._replay.around[layer], layer

    def _effect(self, template: int, around: str, layer: int | None) -> _Effect:
        known = self._effects.get((template, around))
        if known is None:
            known = self._effects[template, around] = self._walk(template, layer)
        return known

    def _walk(self, template: int, layer: int | None) -> _Effect:
        """One template, from a level of nothing."""
        places = self._basis.places
        level = [0] * self._basis.width
        gradients = [0] * self._basis.width
        highs = {tuple(level)}
        rising = False
        for entry in self._replay.program.templates[template]:
            if isinstance(entry, Alloc):
                place, bytes_each = places[entry.size]
                level[place] += bytes_each
                gradients[place] += bytes_each if entry.component == "gradients" else 0
                rising = True
            elif isinstance(entry, MacroCall):
                inside = list(level)
                inside[self._basis.macro_place(entry)] += 1
                highs.add(tuple(inside))
            elif not isinstance(entry, Accumulate) or self._replay.at.accumulating:
                if rising:  # a level can be the highest only where the next entry takes something away
                    highs.add(tuple(level))
                    rising = False
                born = self._replay.born(entry.ref, layer)
                place, bytes_each = places[born.size]
                level[place] -= bytes_each
                gradients[place] -= bytes_each if born.component == "gradients" else 0
        highs.add(tuple(level))
        return _Effect(tuple(level), _plus(tuple(level), tuple(gradients), -1), self._basis.undominated(highs))


def _bounded(forms: list[Form]) -> tuple[Form, list[Form]]:
    """A form that is nowhere below any of these (nothing a form counts is below zero), and these."""
    return tuple(max(column) for column in zip(*forms, strict=True)), forms


def _plus(form: Form, other: Form, times: int = 1) -> Form:
    return tuple([one + times * more for one, more in zip(form, other, strict=True)])
