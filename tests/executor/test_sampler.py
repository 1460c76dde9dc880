"""The order of rows: the longest first, once, and the same for the same seed."""

from hypothesis import given
from hypothesis import strategies as st

from vramplan.executor.data import LongestFirst


def test_the_longest_rows_come_first_in_the_first_epoch_only() -> None:
    sampler = LongestFirst([3, 9, 1, 7, 5, 2], head=3, seed=0)
    assert list(sampler)[:3] == [1, 3, 4]
    sampler.set_epoch(1)
    later = [list(sampler)]
    sampler.set_epoch(2)
    later.append(list(sampler))
    assert [1, 3, 4] not in [order[:3] for order in later]


@given(st.lists(st.integers(1, 50), max_size=40), st.integers(0, 60), st.integers(0, 2**32), st.integers(0, 3))
def test_every_row_appears_once_an_epoch(lengths: list[int], head: int, seed: int, epoch: int) -> None:
    first, second = LongestFirst(lengths, head=head, seed=seed), LongestFirst(lengths, head=head, seed=seed)
    first.set_epoch(epoch)
    second.set_epoch(epoch)
    assert sorted(first) == list(range(len(lengths)))
    assert list(first) == list(second)
