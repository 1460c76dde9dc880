"""TRL's fused head as planned against TRL's own function, tracked; and one small case by hand."""

import contextlib
from collections.abc import Iterator
from itertools import product
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


# ------------------------------------------------------------------ against TRL
HIDDEN = 64
SIZES = {
    "one tile": (500, 5003),
    "a full tile": (4096, 32768),
    "tiles of tokens and of vocabulary": (5000, 49152),
    "three tiles of tokens": (9000, 40001),
}


DTYPES = ((2, 2, False), (4, 4, False), (2, 2, True), (4, 2, True), (4, 4, True))
"""Bytes an element of hidden and of the weight, and whether bf16 autocast is on."""


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
@pytest.mark.parametrize("route", ["cuda", "cpu"])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_every_byte_of_trls_loop_is_there(route: str, sizes: tuple[int, int]) -> None:
    pytest.importorskip("trl")
    tokens, vocabulary = sizes
    off = []
    for hidden_bytes, weight_bytes, autocast in (
        (2, 2, False),
        (4, 4, False),
        (2, 2, True),
        (4, 2, True),
        (4, 4, True),
    ):
        for head_trains, softcap in product((False, True), repeat=2):
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
            planned = peak(forward(head), 1), peak(backward(head), 1)
            real = trl_peaks(head, autocast=autocast)
            if planned != real:
                off.append((head, planned, real))
    assert not off
