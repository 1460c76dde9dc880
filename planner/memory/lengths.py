"""Steps of different lengths: which ones a run over rows that vary soon has."""

from collections.abc import Sequence

SHARES = (0.5, 0.1, 0.9, 0.3, 1.0)
"""Of the batches, by length: a middling one, short, long, shortish, and the longest again."""


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
