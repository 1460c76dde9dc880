"""Levels of memory as sums: constant bytes + bytes a product + how many of each rounded size + of each loop's peak.

Once a model's own dimensions are put in, the sizes of a memory program vary with a few products of batch, sequence,
labels and rank. Every level the step passes through is then a *form*, and one form can be as high as another at every
point there is; such a one is never the highest.
"""

from collections.abc import Iterable, Mapping
from math import prod
from operator import ge
from typing import NamedTuple

from vramplan.planner.dims import with_derived
from vramplan.planner.memory.replay import Replay, macro_peak
from vramplan.planner.programs.program import MacroCall, Size

Form = tuple[int, ...]
"""In the order of the module's first line."""
LEAST = {"B": 1, "S": 2, "N": 1, "r": 1, "P": 1, "b": 1, "e": 1, "L": 1, "W": 1}
"""The smallest values a program is replayed at."""


class Product(NamedTuple):
    """product(atoms) x ceil(product(divided) / divisor), at least 1."""

    atoms: tuple[str, ...]
    divisor: int = 1
    divided: tuple[str, ...] = ()

    def evaluate(self, values: Mapping[str, int]) -> int:
        product = 1
        for atom in self.atoms:
            product *= values[atom]
        if self.divisor > 1:
            product *= -(-prod([values[atom] for atom in self.divided]) // self.divisor)
        return product

    def least(self) -> int:
        """The smallest it can be."""
        values = with_derived(LEAST)
        return prod(values.get(atom, 1) for atom in self.atoms)


class Basis:
    """What the forms of a program are sums of, where some values are fixed.

    Args:
        replay: the program at one point of its regime.
        varying: the values that other points have other ones of; what derives from them varies too.
    """

    def __init__(self, replay: Replay, varying: Iterable[str]) -> None:
        self._program = program = replay.program
        self._quantum = quantum = replay.at.quantum_bytes
        self._fixed = _fixed_values(replay.at.values, varying)
        sizes = [self._split(size) for size in program.sizes]
        self._products = list(dict.fromkeys(product for _, product in sizes if product is not None))
        # a multiple of the quantum times anything needs no rounding
        rounded = [(c, self._products.index(product)) for c, product in sizes if product is not None and c % quantum]
        self._rounded = list(dict.fromkeys(rounded))
        entries = (entry for template in program.templates for entry in template)
        self._macros = list(dict.fromkeys(entry for entry in entries if isinstance(entry, MacroCall)))
        self._first_rounded = 1 + len(self._products)
        self._first_macro = self._first_rounded + len(self._rounded)
        self.width = self._first_macro + len(self._macros)
        self.places = [self._place(coefficient, product) for coefficient, product in sizes]
        """Of each size of the program: (place in a form, what one of it adds there)."""
        self._least = [product.least() for product in self._products]
        self._undominated: dict[frozenset[Form], list[Form]] = {}

    def macro_place(self, call: MacroCall) -> int:
        """Where a macro's peak stands in a form."""
        return self._first_macro + self._macros.index(call)

    def evaluate(self, values: Mapping[str, int]) -> list[int]:
        """Bytes of one of everything a form counts, at these values of what is not fixed."""
        at = with_derived({**self._fixed, **values})
        quantum = self._quantum
        products = [product.evaluate(at) for product in self._products]
        rounded = [-(-coefficient * products[index] // quantum) * quantum for coefficient, index in self._rounded]
        macros = [macro_peak(self._program, call, at, quantum) for call in self._macros]
        return [1, *products, *rounded, *macros]

    def undominated(self, forms: Iterable[Form]) -> list[Form]:
        """Enough of the forms that one of them is the highest at any point."""
        wanted = frozenset(forms)  # a template often passes through the same levels beside every neighbour
        found = self._undominated.get(wanted)
        if found is None:
            found = self._undominated[wanted] = self._highest(wanted)
        return found

    def _highest(self, forms: frozenset[Form]) -> list[Form]:
        kept: list[tuple[Form, Form]] = []
        slopes = {form: self._slopes(form) for form in forms}
        for form in sorted(slopes, key=lambda form: (slopes[form][::-1], form), reverse=True):
            if not any(self._dominates(*other, form, slopes[form]) for other in kept):
                kept.append((form, slopes[form]))
        return [form for form, _ in kept]

    def _slopes(self, form: Form) -> Form:
        """Bytes a product, rounding apart, then how many of each macro's peak."""
        slopes = list(form[1 : self._first_rounded])
        for (coefficient, index), count in zip(
            self._rounded, form[self._first_rounded : self._first_macro], strict=True
        ):
            slopes[index] += coefficient * count
        return (*slopes, *form[self._first_macro :])

    def _dominates(self, high: Form, high_slopes: Form, low: Form, low_slopes: Form) -> bool:
        """Whether ``high`` is at least ``low`` at every point: by its slopes, less what rounding adds to ``low``."""
        if not all(map(ge, high_slopes, low_slopes)):
            return False
        margin = high[0] - low[0]
        for place in range(self._first_rounded, self._first_macro):
            margin -= max(0, low[place] - high[place]) * (self._quantum - 1)
        for more, less, least in zip(high_slopes, low_slopes, self._least, strict=False):
            margin += (more - less) * least
        return margin >= 0

    def _split(self, size: Size) -> tuple[int, Product | None]:
        """A size as bytes times what varies of it."""
        fixed = self._fixed
        coefficient, atoms, divisor, divided = size
        if all(atom in fixed for atom in divided):
            coefficient *= -(-prod(fixed[atom] for atom in divided) // divisor)
            divisor, divided = 1, ()
        coefficient *= prod(fixed[atom] for atom in atoms if atom in fixed)
        varying = tuple(sorted(atom for atom in atoms if atom not in fixed))
        if not varying and divisor == 1:
            return coefficient, None
        return coefficient, Product(varying, divisor, divided)

    def _place(self, coefficient: int, product: Product | None) -> tuple[int, int]:
        if product is None:
            return 0, -(-coefficient // self._quantum) * self._quantum
        index = self._products.index(product)
        if coefficient % self._quantum:
            return self._first_rounded + self._rounded.index((coefficient, index)), 1
        return 1 + index, coefficient


def _fixed_values(values: Mapping[str, int], varying: Iterable[str]) -> dict[str, int]:
    """The values, derived ones too, that stay when those named vary."""
    one, other = (with_derived({**values, **dict.fromkeys(varying, value)}) for value in (1, 2**20 + 1))
    return {name: value for name, value in one.items() if other[name] == value}
