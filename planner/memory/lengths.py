"""Steps of different lengths: which ones a run over rows that vary soon has."""

import random
from collections.abc import Sequence

SHARES = (0.5, 0.1, 0.9, 0.3, 1.0)
"""Of the batches, by length: a middling one, short, long, shortish, and the longest again."""
SHUFFLED_STEPS = 40
"""Steps of a run in an order of chance: each record length takes segments of its own, and records grow rare with the
logarithm of the steps, so a longer run adds little."""


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
    return _at_shares(SHARES, quantiles, micro_batch_size)


def shuffled_lengths(quantiles: Sequence[int], micro_batch_size: int, seed: int) -> tuple[int, ...]:
    """The same of a run that takes its batches in an order of chance: all lengths evenly, the longest among them.

    >>> sorted(shuffled_lengths((10, 20, 30), 1, seed=0))[-1]
    30
    """
    shares = [step / (SHUFFLED_STEPS - 1) for step in range(SHUFFLED_STEPS)]
    random.Random(seed).shuffle(shares)
    return _at_shares(shares, quantiles, micro_batch_size)


def _at_shares(shares: Sequence[float], quantiles: Sequence[int], micro_batch_size: int) -> tuple[int, ...]:
    last = len(quantiles) - 1
    return tuple(quantiles[round(share ** (1 / micro_batch_size) * last)] for share in shares if quantiles)
