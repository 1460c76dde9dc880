"""Several ranks and alphas of one setup: the plans of a sweep, and the file that puts them in a row.

alpha / rank is LoRA's scale, so rank and scale are varied apart: half, one and two times the rank at the same scale,
then the rank at half and at two times the scale. Not every pair: what is learnt from five runs tells which of the two
matters here.
"""

from vramplan.planner.values import Value

SWEEP_FORMAT = 1
SWEEP_FILE = "sweep.json"
LEAST_RANK = 1


class Point(Value):
    """One run of a sweep."""

    rank: int
    alpha: int

    @property
    def name(self) -> str:
        """A folder's name."""
        return f"r{self.rank}-alpha{self.alpha}"


class Sweep(Value):
    """Plans to run one after the other; paths are relative to the file."""

    sweep_format: int = SWEEP_FORMAT
    plans: tuple[str, ...]


def points(rank: int, alpha: int) -> tuple[Point, ...]:
    """The runs of a sweep around a rank and an alpha, the middle first.

    >>> [point.name for point in points(16, 32)]
    ['r16-alpha32', 'r8-alpha16', 'r32-alpha64', 'r16-alpha16', 'r16-alpha64']
    """
    pairs = (
        (rank, alpha),
        (rank // 2, alpha // 2),
        (rank * 2, alpha * 2),
        (rank, alpha // 2),
        (rank, alpha * 2),
    )
    wanted = (Point(rank=r, alpha=a) for r, a in pairs if r >= LEAST_RANK and a >= 1)
    return tuple(dict.fromkeys(wanted))
