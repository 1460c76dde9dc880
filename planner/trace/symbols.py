"""From numbers to symbols: the size of an allocation seen at several sizes, as a monomial in the model's variables.

Each tensor dimension is looked up among products of variables that give its value in *every* trace. Variables take
values without common factors where the structure allows, so one expression is left; held-out traces prove it.
"""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vramplan.planner.programs.program import Size

FUSED_WIDTHS = ("h", "f", "V", "qkv")
"""Sides of weight matrices besides heads x head_dim; what packed 4-bit storages are made of."""


PACKING = (2, 64, 64 * 256)
"""Elements per byte of a 4-bit weight, per absmax, and per second-level absmax (bitsandbytes: blocks of 64 and 256)."""


LARGEST_CONSTANT = 16384
"""A dimension above this that does not change with the sizes is a size we failed to name."""


class NoSymbolError(Exception):
    """No expression gives these values."""


@dataclass(frozen=True)
class Dim:
    """One tensor dimension: coefficient x product of atoms, or ceil(product / divisor)."""

    coefficient: int
    atoms: tuple[str, ...]
    divisor: int = 1

    def evaluate(self, values: dict[str, int]) -> int:
        product = 1
        for atom in self.atoms:
            product *= values[atom]
        return self.coefficient * -(-product // self.divisor)

    def text(self) -> str:
        body = "*".join(self.atoms)
        if self.divisor > 1:
            return f"{body}/{self.divisor}"
        if not self.atoms:
            return str(self.coefficient)
        return body if self.coefficient == 1 else f"{self.coefficient}{body}"


class Symbols:
    """Expressions for values seen at several sizes.

    Args:
        values: the variables (derived ones included) of each trace.
    """

    def __init__(self, values: Sequence[dict[str, int]]) -> None:
        self.values = list(values)
        # The traces are equally deep, and in a model of numbers a number may be what the layers' happens to be.
        hidden = () if "d" in self.values[0] else ("L", "W")
        self._atoms = [name for name in self.values[0] if name not in hidden]
        self._table: dict[tuple[int, ...], Dim] = {}
        for candidate in self._candidates():
            seen = tuple(candidate.evaluate(each) for each in self.values)
            self._table.setdefault(seen, candidate)

    def _candidates(self) -> Iterable[Dim]:
        """Simplest first: an earlier candidate wins a tie."""
        atoms = [name for name in self._atoms if any(each[name] > 1 for each in self.values)]
        for degree in (1, 2, 3, 4):
            for names in itertools.combinations(atoms, degree):
                lengths = [name[0] for name in names if name[0] in "STDU"]
                if len(lengths) > len(set(lengths)) or len({"d", "dr"} & set(names)) > 1:
                    continue
                for coefficient in (1, 2, 3, 4) if degree <= 2 else (1, 2):
                    yield Dim(coefficient, names)
        yield Dim(1, ("S", "S"))
        yield from (Dim(1, (length, length)) for length in "TDU" if length in atoms)
        if "d" not in atoms:
            return  # a model whose sizes are numbers
        yield Dim(1, ("d",), 2)  # rotary frequencies
        widths = [("H", "d"), ("K", "d"), *((name,) for name in FUSED_WIDTHS)]
        for one, other in itertools.combinations_with_replacement(widths, 2):
            for divisor in PACKING:
                yield Dim(1, (*one, *other), divisor)
            # a fused gate_up projection is 2f wide: 2fh / 64 = fh / 32
            for divisor in PACKING[1:]:
                yield Dim(1, (*one, *other), divisor // 2)

    def dim(self, seen: tuple[int, ...]) -> Dim:
        """The expression of one dimension."""
        layers = [(2, "L")] if "d" in self.values[0] else []  # a model of numbers may have as many heads: see _dims
        for coefficient, atom in (*layers, (1, "W")):  # the traces are equally deep: nothing else tells these
            if all(n == coefficient * each.get(atom, 0) for n, each in zip(seen, self.values, strict=True)):
                return Dim(coefficient, (atom,))
        if len(set(seen)) == 1 and (seen[0] <= LARGEST_CONSTANT or "d" not in self.values[0]):
            return Dim(seen[0], ())
        found = self._table.get(seen) or self._multiple(seen)
        if found is None:
            raise NoSymbolError(f"no product of sizes gives {seen}")
        return found

    def _dims(self, columns: list[tuple[int, ...]]) -> list[Dim]:
        """The expressions of a shape. A whole prefix in parts, (B, P, layers, heads, d) or with the layers first, has
        two or four keys and values for each layer; elsewhere such a number may be heads, or their size."""
        dims = [self.dim(column) for column in columns]
        layers, tokens = self.values[0].get("L"), Dim(1, ("P",))
        if layers is None or "d" in self.values[0] or len(dims) != 5 or tokens not in dims:
            return dims
        place = 2 if dims[1] == tokens else 0
        times, rest = divmod(dims[place].coefficient, layers)
        if not dims[place].atoms and times in (2, 4) and not rest:
            dims[place] = Dim(times, ("L",))
        return dims

    def _multiple(self, seen: tuple[int, ...]) -> Dim | None:
        """A constant times a product of variables: experts a token, state sizes, a square of the sequence."""
        for degree in (3, 2, 1):
            for names in itertools.combinations_with_replacement(self._atoms, degree):
                factors = [Dim(1, names).evaluate(each) for each in self.values]
                quotients = {n / factor for n, factor in zip(seen, factors, strict=True)}
                if len(quotients) == 1 and max(factors) > 1 and quotients == {seen[0] // factors[0]}:
                    return Dim(seen[0] // factors[0], names)
        return None

    def size(self, shapes: Sequence[tuple[int, ...]], itemsize: int, nbytes: tuple[int, ...]) -> tuple[Size, str]:
        """The bytes of a storage as a Size, and its shape as text.

        Args:
            shapes: the first tensor seen on it, in each trace.
            itemsize: bytes per element.
            nbytes: the storage's bytes, in each trace.

        Raises:
            NoSymbolError: nothing fits.
        """
        if len({len(shape) for shape in shapes}) == 1:
            try:
                dims = self._dims([tuple(column) for column in zip(*shapes, strict=True)])
            except NoSymbolError:
                dims = []
            size = _product(dims, itemsize)
            if (dims or not shapes[0]) and all(
                size.evaluate(each) == n for each, n in zip(self.values, nbytes, strict=True)
            ):
                return size, "(" + ", ".join(dim.text() for dim in dims) + ")"
        if len(set(nbytes)) == 1:
            return Size(coefficient=nbytes[0]), f"({nbytes[0] // itemsize})"
        elements = tuple(n // itemsize for n in nbytes)
        dim = self.dim(elements)
        return _product([dim], itemsize), f"({dim.text()})"


def _product(dims: Sequence[Dim], itemsize: int) -> Size:
    coefficient, divisor = itemsize, 1
    atoms: list[str] = []
    divided: list[str] = []
    for dim in dims:
        coefficient *= dim.coefficient
        if dim.divisor == 1:
            atoms += dim.atoms
        else:
            divisor, divided = dim.divisor, list(dim.atoms)
    return Size(coefficient=coefficient, atoms=tuple(atoms), divisor=divisor, divided=tuple(divided))
