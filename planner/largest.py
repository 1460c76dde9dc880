"""What a card can tune: per method, the largest model whose price fits.

Models are tried from the largest down, so the first that fits is the answer. A bigger model does not always cost
more (vocabulary, experts, attention all differ), so a model is skipped on size alone only when the bytes it cannot
do without are more than there are.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from vramplan.planner.candidate import Candidate
from vramplan.planner.errors import VramplanError
from vramplan.planner.values import Value

LEAST_BITS_PER_PARAM = {"full": 32, "lora": 16, "qlora": 4}
"""What no setup of a method does without: 16-bit weights, under full fine-tuning their gradients too; nf4 weights."""


class Sized(Protocol):
    """A model as a list shows it: enough to order it by size."""

    @property
    def id(self) -> str: ...

    @property
    def params(self) -> int: ...


class Largest(Value):
    """How far the search for one method has come.

    ``model`` and ``candidate`` are the answer once ``done``; both None then: nothing in the catalogue fits.
    """

    method: str
    tried: int
    of: int
    done: bool
    model: str | None = None
    """Its id in the catalogue."""
    candidate: Candidate | None = None
    unpriced: int = 0
    """Models passed over because they have no price here, so a larger one than the answer may fit."""


Price = Callable[[str, str], Candidate]
"""(model id, method) -> its price on the device in question; raises VramplanError where there is none."""


def largest(models: Iterable[Sized], methods: Sequence[str], price: Price, available_bytes: int) -> Iterator[Largest]:
    """Yield progress per method, ending each method with a ``done``.

    Args:
        models: in any order; ties in size go to the first by name.
        methods: in the order to report them.
        price: called at most once per model and method. A model it raises VramplanError for is passed over.
        available_bytes: on the device in question.
    """
    ordered = sorted(models, key=lambda model: (-model.params, model.id))
    for method in methods:
        least = LEAST_BITS_PER_PARAM.get(method, 0)
        worth_pricing = [model.id for model in ordered if model.params * least <= 8 * available_bytes]
        yield from _largest_for(method, worth_pricing, price)


def _largest_for(method: str, ids: Sequence[str], price: Price) -> Iterator[Largest]:
    unpriced = 0
    for tried, model in enumerate(ids, start=1):
        yield Largest(method=method, tried=tried, of=len(ids), done=False, unpriced=unpriced)
        try:
            candidate = price(model, method)
        except VramplanError:
            unpriced += 1
            continue
        if candidate.verdict == "fits":
            yield Largest(
                method=method,
                tried=tried,
                of=len(ids),
                done=True,
                model=model,
                candidate=candidate,
                unpriced=unpriced,
            )
            return
    yield Largest(method=method, tried=len(ids), of=len(ids), done=True, unpriced=unpriced)
