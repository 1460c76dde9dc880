"""How long the rows of a training file are, and what a sequence length, a micro batch and packing make of them.

Batches are drawn at random, as a shuffled run has them: the longest of n rows is at most a length with the n-th power
of the share of rows that are. Packing is trl's best fit, longest rows first (trl/data_utils.py, pack_dataset, "bfd").
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from math import ceil, log, sqrt

from vramplan.planner.values import Value

QUANTILES = 10


class Cut(Value):
    """What a sequence length takes away."""

    sequence_length: int
    rows: int
    """Rows that are cut."""
    kept_tokens: int
    lost_tokens: int

    @property
    def lost_share(self) -> float:
        """Of all tokens."""
        return self.lost_tokens / (self.kept_tokens + self.lost_tokens)


class Histogram(Value):
    """Rows by length. ``lengths`` ascend; ``rows[i]`` have ``lengths[i]`` tokens."""

    lengths: tuple[int, ...]
    rows: tuple[int, ...]
    sampled_of: int | None = None
    """Rows of the file, where only some were measured."""

    @property
    def num_rows(self) -> int:
        """Rows that were measured."""
        return sum(self.rows)

    @property
    def longest(self) -> int:
        return self.lengths[-1]

    @property
    def total_tokens(self) -> int:
        """Of the rows that were measured."""
        return sum(length * rows for length, rows in zip(self.lengths, self.rows, strict=True))

    def percentile(self, share: float) -> int:
        """The shortest length that this share of the rows does not exceed.

        >>> histogram_of([1, 2, 3, 4, 100]).percentile(0.5), histogram_of([1, 2, 3, 4, 100]).percentile(0.95)
        (3, 100)
        """
        wanted = ceil(share * self.num_rows)
        below = accumulate(self.rows)
        return next(length for length, rows in zip(self.lengths, below, strict=True) if rows >= wanted)

    def percentile_bounds(self, share: float, confidence: float = 0.99) -> tuple[int, int]:
        """Between which lengths the percentile of the whole file lies, where a sample was measured.

        Dvoretzky, Kiefer and Wolfowitz' inequality with Massart's constant (1990): no share is further off than
        sqrt(ln(2 / (1 - confidence)) / 2n).
        """
        if self.sampled_of is None:
            return self.percentile(share), self.percentile(share)
        off = sqrt(log(2 / (1 - confidence)) / (2 * self.num_rows))
        return self.percentile(max(share - off, 1 / self.num_rows)), self.percentile(min(share + off, 1.0))

    def cut(self, sequence_length: int) -> Cut:
        """What is cut off at a sequence length; counts are of the whole file, scaled up from a sample.

        >>> histogram_of([1, 2, 3, 4, 100]).cut(10)
        Cut(sequence_length=10, rows=1, kept_tokens=20, lost_tokens=90)
        """
        pairs = list(zip(self.lengths, self.rows, strict=True))
        kept = sum(min(length, sequence_length) * rows for length, rows in pairs)
        cut = sum(rows for length, rows in pairs if length > sequence_length)
        scale = 1.0 if self.sampled_of is None else self.sampled_of / self.num_rows
        return Cut(
            sequence_length=sequence_length,
            rows=round(cut * scale),
            kept_tokens=round(kept * scale),
            lost_tokens=round((self.total_tokens - kept) * scale),
        )

    def bars(self, number: int) -> tuple[tuple[int, int], ...]:
        """Rows by even steps of length: up to which length, and how many rows.

        >>> histogram_of([1, 2, 3, 4, 100]).bars(4)
        ((25, 4), (50, 0), (75, 0), (100, 1))
        """
        number = max(1, min(number, self.longest))
        ends = [self.longest * (step + 1) // number for step in range(number)]
        counts = dict.fromkeys(ends, 0)
        at = 0
        for length, rows in zip(self.lengths, self.rows, strict=True):
            while length > ends[at]:
                at += 1
            counts[ends[at]] += rows
        return tuple(counts.items())

    def padding_share(self, micro_batch: int, sequence_length: int) -> float:
        """Share of a padded micro batch that is padding, on average.

        >>> round(histogram_of([1, 3]).padding_share(2, 8), 3)  # batches 1+1, 1+3, 3+1, 3+3: 16 tokens in 20 places
        0.2
        """
        mean = self.cut(sequence_length).kept_tokens / (self.sampled_of or self.num_rows)
        return 1 - mean / self.mean_longest(micro_batch, sequence_length)

    def mean_longest(self, micro_batch: int, sequence_length: int) -> float:
        """Tokens of the longest of so many rows, on average."""
        total = self.num_rows
        mean = below = 0.0
        for length, rows in zip(self.lengths, accumulate(self.rows), strict=True):
            share = (rows / total) ** micro_batch
            mean += min(length, sequence_length) * (share - below)
            below = share
        return mean

    def packing_gain(self, sequence_length: int) -> float:
        """How many rows one packed row holds, on average.

        >>> histogram_of([6, 5, 4, 3, 2]).packing_gain(10)  # 6 + 4, 5 + 3 + 2
        2.5
        """
        return self.num_rows / sum(self._packed(sequence_length))

    def _packed(self, sequence_length: int) -> Iterator[int]:
        """Bins that best fit opens, at each length in turn, the longest rows first."""
        room = [0] * (sequence_length + 1)
        """room[n]: bins with n tokens free."""
        for length, rows in zip(reversed(self.lengths), reversed(self.rows), strict=True):
            size, left = min(length, sequence_length), rows
            free = size
            while left and free <= sequence_length:  # the fullest bin that has room
                moved = min(left, room[free])
                room[free] -= moved
                room[free - size] += moved
                left -= moved
                free = free - size if moved and free >= 2 * size else free + (room[free] == 0 or not left)
            while left:  # a new bin takes as many of this length as it has room for
                each = sequence_length // size
                bins, last = divmod(left, each)
                if bins:
                    room[sequence_length - each * size] += bins
                    yield bins
                if last:
                    room[sequence_length - last * size] += 1
                    yield 1
                left = 0

    def quantiles(self) -> tuple[int, ...]:
        """The lengths at every tenth of the rows, shortest and longest too.

        >>> histogram_of(range(1, 102)).quantiles()
        (1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 101)
        """
        places = [(self.num_rows - 1) * part // QUANTILES for part in range(QUANTILES + 1)]
        ends = list(accumulate(self.rows))
        return tuple(
            next(length for length, end in zip(self.lengths, ends, strict=True) if end > place) for place in places
        )


def histogram_of(lengths: Iterable[int], sampled_of: int | None = None) -> Histogram:
    """Count rows by length.

    >>> histogram_of([3, 1, 3])
    Histogram(lengths=(1, 3), rows=(1, 2), sampled_of=None)
    """
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    ordered = sorted(counts)
    return Histogram(lengths=tuple(ordered), rows=tuple(counts[length] for length in ordered), sampled_of=sampled_of)
