"""Steps of different lengths: which ones a run over rows that vary soon has."""

import random
from collections.abc import Iterator, Sequence
from math import floor, log

SHARES = (0.5, 0.1, 0.9, 0.3, 1.0)
"""Of the batches, by length: a middling one, short, long, shortish, and the longest again."""
UNKNOWN_BATCHES = 1000
"""Batches of a run whose rows nobody counted."""


def step_lengths(quantiles: Sequence[int], micro_batch_size: int) -> tuple[int, ...]:
    """Tokens a row of a few typical batches, each padded to its longest row, as a collator does.

    The longest of n rows stays below a length with the n-th power of the chance that one row does.

    Args:
        quantiles: row lengths at even shares of the rows, shortest to longest; empty: all rows are alike.

    >>> step_lengths((0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), 1)
    (50, 10, 90, 30, 100)
    >>> step_lengths((0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100), 4)
    (80, 60, 100, 70, 100)
    """
    last = len(quantiles) - 1
    return tuple(quantiles[round(share ** (1 / micro_batch_size) * last)] for share in SHARES if quantiles)


def record_lengths(quantiles: Sequence[int], micro_batch_size: int, num_batches: int, seed: int) -> tuple[int, ...]:
    """The batches longer than all before them, of a run that takes its batches in an order of chance.

    Between two steps every tensor that lives inside a step is gone, so a step for which the segments of earlier ones
    suffice leaves no trace in the allocator; a shorter one needs a few small segments of its own at most. The longest
    batch is the last of the records.

    >>> record_lengths((100, 500, 900), 1, 1000, seed=1)
    (207, 736, 817, 871, 874, 896, 899, 900)
    """
    found = [_between(quantiles, share ** (1 / micro_batch_size)) for share in _records(num_batches, seed)]
    return tuple(dict.fromkeys([*found[:-1], quantiles[-1]]))


def _records(num_batches: int, seed: int) -> Iterator[float]:
    """The records of that many draws from 0 to 1. The next draw above a record comes after a geometric wait, and lies
    anywhere above it, so there are about log(n) of them (K. N. Chandler, The distribution and frequency of record
    values, 1952)."""
    chance = random.Random(seed)
    record, drawn = chance.random(), 1
    while drawn <= num_batches:
        yield record
        drawn += 1 + floor(log(1 - chance.random()) / log(record))
        record += (1 - record) * chance.random()


def _between(quantiles: Sequence[int], share: float) -> int:
    """The length that this share of the rows does not exceed, on straight lines between those known."""
    at = share * (len(quantiles) - 1)
    below = min(floor(at), len(quantiles) - 2) if len(quantiles) > 1 else 0
    above = min(below + 1, len(quantiles) - 1)
    return round(quantiles[below] + (at - below) * (quantiles[above] - quantiles[below]))
