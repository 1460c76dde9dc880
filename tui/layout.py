"""How many cells an amount takes: the only place of the app that computes with amounts.

What comes of it is the length of a bar, never a number: every number on a screen is the core's.
"""

from collections.abc import Iterable, Sequence


def share_cells(amounts: Sequence[int], width: int) -> list[int]:
    """Cells for each amount, summing to width, by largest remainder.

    >>> share_cells([3, 3, 2], 4)
    [2, 1, 1]
    >>> share_cells([0, 0], 5)
    [0, 0]
    """
    total = sum(amounts)
    if total <= 0 or width <= 0:
        return [0] * len(amounts)
    cells = [amount * width // total for amount in amounts]
    remainders = sorted(range(len(amounts)), key=lambda i: amounts[i] * width % total, reverse=True)
    for index in remainders[: width - sum(cells)]:
        cells[index] += 1
    return cells


def left_of(whole: int, *parts: int) -> int:
    """What of a whole its parts leave; never less than nothing.

    >>> left_of(10, 3, 4), left_of(10, 12)
    (3, 0)
    """
    return max(0, whole - sum(parts))


def all_of(parts: Iterable[int]) -> int:
    """Parts on end."""
    return sum(parts)


def eighths_at(amount: int, scale: int, row: int, height: int) -> int:
    """Eighths of a cell that a column reaches in a row, counted from the bottom; beyond 8 the row is full.

    >>> [eighths_at(3, 4, row, 2) for row in (0, 1)]
    [12, 4]
    """
    return amount * height * 8 // scale - 8 * row
