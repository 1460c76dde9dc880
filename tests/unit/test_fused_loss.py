"""TRL's fused head as planned against TRL's own function, tracked; and one small case by hand."""

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.planner.memory.fused_loss import FusedHead, backward, forward, peak

SMALL = FusedHead(
    tokens=3,
    hidden=2,
    vocabulary=5,
    hidden_bytes=2,
    weight_bytes=2,
    compute_bytes=2,
    softcap=False,
    head_trains=False,
    in_place=True,
)
BUFFER = 3 * 32768 * 2  # one tile of 3 tokens in bf16, full width


def changed(**fields: Any) -> FusedHead:
    return SMALL._replace(**fields)


def test_the_forward_peak_of_three_tokens_by_hand() -> None:
    # seven fp32 rows of 3, the buffer, and at the end log_z, logprobs, x_sum_exp / sum_exp and entropy: fp32 rows too
    assert peak(forward(SMALL), 1) == 7 * 12 + BUFFER + 4 * 12
    # in blocks of 512 the three flags of is_top1 weigh as much as rows: log_z, logprobs, entropy and they are the peak
    assert peak(forward(SMALL), 512) == 7 * 512 + BUFFER + 6 * 512


def test_the_backward_peak_of_three_tokens_by_hand() -> None:
    # fp32 gradient of hidden, the buffer, its bf16 copy
    assert peak(backward(SMALL), 1) == 24 + BUFFER + 12
    # the same of the 5 x 2 weight when the head trains
    assert peak(backward(changed(head_trains=True)), 1) == 24 + 40 + BUFFER + 12 + 20


def test_more_tokens_than_a_tile_share_its_buffer() -> None:
    one, two = (peak(forward(changed(tokens=tokens)), 1) for tokens in (4096, 8192))
    assert one == 7 * 4 * 4096 + 4096 * 32768 * 2 + 4 * 4 * 4096
    assert two - one == 11 * 4 * 4096


@given(st.integers(1, 20_000), st.integers(1, 20_000), st.booleans(), st.sampled_from([2, 4]))
def test_more_tokens_never_need_less(one: int, other: int, in_place: bool, compute_bytes: int) -> None:
    low, high = (
        changed(tokens=tokens, vocabulary=50_000, in_place=in_place, compute_bytes=compute_bytes)
        for tokens in sorted((one, other))
    )
    for walk in (forward, backward):
        assert peak(walk(low), 1) <= peak(walk(high), 1)


@pytest.mark.parametrize("walk", [forward, backward])
def test_what_a_walk_frees_it_has_allocated(walk: Callable[[FusedHead], Iterator[int]]) -> None:
    sizes = product((1, 3, 4097), (5, 40_000), (2, 4), (2, 4), (False, True), (False, True), (False, True))
    for tokens, vocabulary, hidden_bytes, compute_bytes, softcap, head_trains, in_place in sizes:
        head = changed(tokens=tokens, vocabulary=vocabulary, hidden_bytes=hidden_bytes, compute_bytes=compute_bytes)
        head = head._replace(softcap=softcap, head_trains=head_trains, in_place=in_place)
        alive: Counter[int] = Counter()
        for size in walk(head):
            alive[abs(size)] += 1 if size > 0 else -1
            assert alive[abs(size)] >= 0 or size == 0
        assert all(count > 0 for size, count in alive.items() if size and count)


def test_a_walk_passes_every_tile_of_tokens_and_vocabulary() -> None:
    # 9,000 tokens are two tiles of 4,096 and 808 left; 40,001 entries are one of 32,768 and 7,233
    tiles = [(tokens, list(widths)) for tokens, widths in changed(tokens=9000, vocabulary=40_001).tiles()]
    assert tiles == [(4096, [32768, 7233]), (4096, [32768, 7233]), (808, [32768, 7233])]


def test_for_a_peak_two_full_tiles_and_the_rest_are_enough() -> None:
    few = changed(tokens=5 * 4096 + 1, vocabulary=2 * 32768, whole=False)
    assert [(tokens, list(widths)) for tokens, widths in few.tiles()] == [
        (tokens, [32768, 32768]) for tokens in (4096, 4096, 1)
    ]
    every = few._replace(whole=True, in_place=False, compute_bytes=4)
    assert sum(1 for _ in every.tiles()) == 6
    for walk in (forward, backward):
        assert peak(walk(every), 512) == peak(walk(every._replace(whole=False)), 512)


def test_a_bias_is_cast_tile_by_tile_and_has_a_gradient_where_it_trains() -> None:
    # an fp32 bias under bf16: each tile's part is cast, and gone before anything else is made
    biased = changed(bias_bytes=4)
    assert list(biased.bias_chunk(5)) == [10, -10]
    assert list(changed(bias_bytes=2).bias_chunk(5)) == []
    # what it adds to a backward's end: an fp32 sum of 5, and the same in bf16
    plain, trained = (peak(backward(changed(bias_bytes=2, bias_trains=trains)), 1) for trains in (False, True))
    assert trained - plain == 5 * 4 + 5 * 2


# ------------------------------------------------------------------ against TRL
HIDDEN = 64
RECORDED = json.loads((Path(__file__).parents[1] / "fixtures" / "trl_fused_head.json").read_text())
"""Highest points of TRL 1.16's own loop on fake tensors: [route, tokens, vocabulary, bytes an element of hidden and of
the weight, whether bf16 autocast is on, whether the head trains, softcap, bytes in the forward, in the backward]."""


def recorded(route: str) -> Iterator[tuple[FusedHead, bool, tuple[int, int]]]:
    """Each head of a route, whether autocast is on, and what TRL held."""
    for its, tokens, vocabulary, hidden_bytes, weight_bytes, autocast, head_trains, softcap, *peaks in RECORDED:
        head = FusedHead(
            tokens=tokens,
            hidden=HIDDEN,
            vocabulary=vocabulary,
            hidden_bytes=hidden_bytes,
            weight_bytes=weight_bytes,
            compute_bytes=2 if autocast else hidden_bytes,
            softcap=softcap,
            head_trains=head_trains,
            in_place=route == "cuda",
        )
        if its == route:
            yield head, autocast, (peaks[0], peaks[1])


@pytest.mark.parametrize("route", ["cuda", "cpu"])
def test_every_byte_that_trls_loop_held_is_there(route: str) -> None:
    heads = list(recorded(route))
    assert len(heads) == 80
    assert [head for head, _, held in heads if held != (peak(forward(head), 1), peak(backward(head), 1))] == []
    for head, _, held in heads:
        few = head._replace(whole=False)
        assert (peak(forward(few), 1), peak(backward(few), 1)) == held


@contextlib.contextmanager
def fake_tensors() -> Iterator[None]:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):
        yield


def trl_peaks(head: FusedHead, *, autocast: bool) -> tuple[int, int]:
    """The highest points of TRL's forward and backward, each above what there was before it, on fake tensors."""
    import torch
    import trl.kernels.chunked_logprob as kernels

    from vramplan.planner.trace.loss import FUSED_OUTPUTS, fused_loss
    from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

    dtypes = {2: torch.bfloat16, 4: torch.float32}
    with fake_tensors(), fused_loss("cuda" if head.in_place else "cpu", None):
        hidden = torch.empty((head.tokens, head.hidden), dtype=dtypes[head.hidden_bytes], requires_grad=True)
        weight = torch.empty((head.vocabulary, head.hidden), dtype=dtypes[head.weight_bytes])
        weight.requires_grad_(head.head_trains)
        targets, gradient = torch.empty((head.tokens,), dtype=torch.long), torch.empty((head.tokens,))
        tracker = Tracker()
        for tensor in (hidden, weight, targets, gradient):
            tracker.see(tensor)
        inputs = len(tracker.storages)
        precision = torch.autocast("cpu", dtype=torch.bfloat16) if autocast else contextlib.nullcontext()
        with exact_lifetimes(), tracker:
            with precision:
                logprobs = kernels.ChunkedLogProbFunction.apply(
                    hidden, weight, None, targets, 1.0, 32768, 30.0 if head.softcap else None, 1.0, FUSED_OUTPUTS
                )[0]
            turn = len(tracker.events)
            logprobs.backward(gradient)
        events = list(tracker.events)

    def highest(part: list[Any]) -> int:
        level = top = 0
        for event in part:
            if event.storage >= inputs:
                size = tracker.storages[event.storage].nbytes
                level += size if event.kind == "alloc" else -size
                top = max(top, level)
        return top

    return highest(events[:turn]), highest(events[turn:])


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("sizes", sorted({(row[1], row[2]) for row in RECORDED}))
@pytest.mark.parametrize("route", ["cuda", "cpu"])
def test_trls_loop_holds_what_was_recorded(route: str, sizes: tuple[int, int]) -> None:
    pytest.importorskip("trl")
    heads = [found for found in recorded(route) if (found[0].tokens, found[0].vocabulary) == sizes]
    assert [head for head, autocast, held in heads if held != trl_peaks(head, autocast=autocast)] == []
