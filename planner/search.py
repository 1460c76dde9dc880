"""Best-first search over setups whose merits are learnt step by step, each step dearer than the one before.

A step replaces what was assumed of a setup by what is known, and never makes it look better. So a setup that is first
of all when everything about it is known cannot be beaten by one of which less is known: what is skipped could not
have won (A*: Hart, Nilsson and Raphael, 1968).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heapify, heappop, heappush
from typing import Any, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")
Key = tuple[Any, ...]
"""Smaller is better; a later step's is never smaller."""
Step = Callable[[Item], Key | None]
"""What is known of an item now; None: it is out of the question."""


class Found(NamedTuple, Generic[Item]):
    """An item with everything known."""

    key: Key
    item: Item


def best_first(items: Iterable[Item], steps: Sequence[Step[Item]]) -> Iterator[Found[Item]]:
    """Yield the items that stay in question, best first; equal ones in the order they came.

    Args:
        steps: from the cheapest to the dearest. Each is asked at most once an item, and the first of every item.
    """
    waiting: list[tuple[Key, int, int, Item]] = []
    for number, item in enumerate(items):
        key = steps[0](item)
        if key is not None:
            waiting.append((key, number, 1, item))
    heapify(waiting)
    while waiting:
        key, number, known, item = heappop(waiting)
        if known == len(steps):
            yield Found(key, item)
            continue
        better_known = steps[known](item)
        if better_known is not None:
            heappush(waiting, (better_known, number, known + 1, item))


def front(items: Iterable[Item], merits: Callable[[Item], Key]) -> list[Item]:
    """The items that none is better than in one merit and as good in the others, in the order they came; of equal
    ones the first.

    >>> front([(1, 3), (2, 2), (3, 3), (3, 1), (2, 2)], lambda item: item)
    [(1, 3), (2, 2), (3, 1)]
    """
    ordered = sorted(enumerate(items), key=lambda each: (merits(each[1]), each[0]))
    kept: list[tuple[int, Item]] = []
    for number, item in ordered:
        mine = merits(item)
        if not any(all(a <= b for a, b in zip(merits(other), mine, strict=True)) for _, other in kept):
            kept.append((number, item))
    return [item for _, item in sorted(kept, key=lambda each: each[0])]
