"""TRL's fused LM head, allocation by allocation (trl 1.16, trl/kernels/chunked_logprob.py, ChunkedLogProbFunction).

The vocabulary is projected in tiles of at most 4096 tokens x 32768 entries, so N x V logits never exist. Each function
below walks the loop of the same name there: a positive number is an allocation, a negative one a free, in bytes. On
CUDA the tiles are folded by Triton kernels in place; elsewhere by torch operations with fp32 temporaries.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

TOKEN_CHUNK = 4096
"""TOKEN_CHUNK_SIZE, trl/kernels/chunked_logprob.py."""
VOCABULARY_CHUNK = 32768
"""_CHUNKED_LOGPROB_CHUNK_SIZE, trl/trainer/utils.py."""
FP32, INT64 = 4, 8


class FusedHead(NamedTuple):
    """The head's sizes: tokens scored, hidden size, vocabulary; bytes per element of hidden, weight and compute."""

    tokens: int
    hidden: int
    vocabulary: int
    hidden_bytes: int
    weight_bytes: int
    compute_bytes: int
    softcap: bool
    head_trains: bool
    in_place: bool
    """Triton folds the tiles (CUDA)."""
    bias_bytes: int = 0
    """Bytes per element of the head's bias; 0 without one."""
    bias_trains: bool = False
    whole: bool = True
    """Walk every tile. A peak needs two full ones and the rest: each later full tile finds what the second found."""

    def tiles(self) -> Iterator[tuple[int, Iterable[int]]]:
        """Token counts, each with its vocabulary widths."""
        widths = self._cut(self.vocabulary, VOCABULARY_CHUNK)
        for tokens in self._cut(self.tokens, TOKEN_CHUNK):
            yield tokens, widths

    def _cut(self, total: int, chunk: int) -> list[int]:
        full, rest = divmod(total, chunk)
        return [chunk] * (full if self.whole else min(full, 2)) + [rest] * (rest > 0)

    def bias_chunk(self, width: int) -> Iterator[int]:
        """A tile's part of the bias, cast to the compute dtype and added in place."""
        if self.bias_bytes and self.bias_bytes != self.compute_bytes:
            yield from (width * self.compute_bytes, -width * self.compute_bytes)

    @property
    def buffer_bytes(self) -> int:
        """``mm_buf``: one tile of logits in the compute dtype, full width whatever the vocabulary."""
        return min(self.tokens, TOKEN_CHUNK) * VOCABULARY_CHUNK * self.compute_bytes


def forward(head: FusedHead) -> Iterator[int]:
    """ChunkedLogProbFunction.forward, up to its return; what it returns or saves is alive at the end."""
    row = FP32 * head.tokens
    yield from [row] * 7  # running_max, sum_exp, x_sum_exp, sq_sum_exp, z_sum, max_before_target, target_logit
    yield head.buffer_bytes
    hidden_chunk = 0
    for tokens, widths in head.tiles():
        if head.hidden_bytes != head.compute_bytes:
            fresh = tokens * head.hidden * head.compute_bytes
            yield fresh
            if hidden_chunk:
                yield -hidden_chunk
            hidden_chunk = fresh
        for width in widths:
            weight_chunk = width * head.hidden * head.compute_bytes
            if head.weight_bytes != head.compute_bytes:
                yield weight_chunk
                yield -weight_chunk
            yield from head.bias_chunk(width)
            if not head.in_place:
                yield from _fold_forward(tokens, width, head)
    yield from (row, row, -row)  # log(sum_exp), log_z
    yield row  # logprobs
    yield from (row, row, -row)  # x_sum_exp / sum_exp, entropy
    flag = head.tokens
    yield from (flag, flag, flag, -flag, -flag)  # is_top1


def backward(head: FusedHead) -> Iterator[int]:
    """ChunkedLogProbFunction.backward, up to its return."""
    yield from _gradients(head)
    yield head.buffer_bytes
    hidden_chunk = weight_chunk = 0
    for tokens, widths in head.tiles():
        if head.hidden_bytes != head.compute_bytes:
            fresh = tokens * head.hidden * head.compute_bytes
            yield fresh
            if hidden_chunk:
                yield -hidden_chunk
            hidden_chunk = fresh
        for width in widths:
            if head.weight_bytes != head.compute_bytes:
                fresh = width * head.hidden * head.compute_bytes
                yield fresh
                if weight_chunk:
                    yield -weight_chunk
                weight_chunk = fresh
            yield from head.bias_chunk(width)
            if not head.in_place:
                yield from _fold_backward(tokens, width, head)
            if head.bias_trains:
                yield from (FP32 * width, -FP32 * width)  # the tile's sum
    yield from _returned(head)


def _gradients(head: FusedHead) -> Iterator[int]:
    """The fp32 sums: of the hidden states, and of weight and bias where they train."""
    yield FP32 * head.tokens * head.hidden
    if head.head_trains:
        yield FP32 * head.vocabulary * head.hidden
    if head.bias_trains:
        yield FP32 * head.vocabulary


def _returned(head: FusedHead) -> Iterator[int]:
    """The same in the dtypes of what they are gradients of."""
    if head.hidden_bytes != FP32:
        yield head.tokens * head.hidden * head.hidden_bytes
    if head.head_trains and head.weight_bytes != FP32:
        yield head.vocabulary * head.hidden * head.weight_bytes
    if head.bias_trains and head.bias_bytes != FP32:
        yield head.vocabulary * head.bias_bytes


def _transform(tile: int, cast: int, softcap: bool) -> Iterator[int]:
    """_torch_transform of ``tile.float()``: one tile is left, the scaled (and capped) logits."""
    yield from (cast, tile, -cast)  # z * logit_scale; the cast had no other owner
    if softcap:
        yield from (tile, tile, -tile)  # z / softcap, tanh of it
        yield from (tile, -tile, -tile)  # times softcap; the scaled z is rebound
    yield from (tile, -tile)  # z * inv_t


def _fold_forward(tokens: int, width: int, head: FusedHead) -> Iterator[int]:
    """_forward_tile with the outputs SFTTrainer asks for (entropy, is_top1)."""
    tile, row, flags = FP32 * tokens * width, FP32 * tokens, tokens * width
    cast = 0 if head.compute_bytes == FP32 else tile
    yield from _transform(tile, cast, head.softcap)
    yield INT64 * tokens  # local
    yield from (INT64 * width, flags, -INT64 * width)  # arange, before_target
    yield from (flags, tile, -flags, row, -tile, row, -row, -row)  # masked maximum before the target
    yield from (row, row, -row)  # new_m
    yield from (row, row, -row)  # rescale
    yield from (tile, tile, -tile)  # e
    yield from (row, -row)  # e.sum
    yield from (tile, row, -tile, -row)  # (e * z).sum
    yield from (tokens, tokens, tokens, -tokens, -tokens)  # in_tile
    yield from (INT64 * tokens, row, -INT64 * tokens)  # target_z
    yield from (row, -row)  # where
    yield from (-tile, -INT64 * tokens, -flags, -row, -row, -tile, -tokens, -row)  # locals die on return


def _fold_backward(tokens: int, width: int, head: FusedHead) -> Iterator[int]:
    """_backward_tile for a gradient of the log-probabilities alone, then the two fp32 products."""
    tile, flags = FP32 * tokens * width, tokens * width
    cast = 0 if head.compute_bytes == FP32 else tile
    yield from (cast, tile, -cast)  # y
    live = [tile]
    if head.softcap:
        yield from (tile, tile, -tile)  # y / softcap, t
        yield from (tile, tile, -tile)  # softcap * t, z
        live += [tile, tile]
    else:
        yield tile  # z
        live += [tile]
    yield tile  # log_p
    yield tile  # p
    yield tile  # grad
    yield from (INT64 * width, flags, -INT64 * width)  # is_target
    yield from (tile, tile, -tile, tile, -tile, -tile)  # is_target.float() - p, times the incoming gradient
    yield from (tile, -tile)  # grad * inv_t
    if head.softcap:
        yield from (tile, tile, -tile, tile, -tile, -tile)  # t * t, 1 - t * t, grad times it
    yield from (tile, -tile)  # grad * logit_scale
    yield from (-flags, -tile, -tile, -tile, *(-bytes_ for bytes_ in live))
    if head.compute_bytes != FP32:
        # _addmm_fp32 casts both factors where the matrix product cannot accumulate in fp32 itself
        weight = FP32 * width * head.hidden
        yield from (tile, weight, -tile, -weight)
        if head.head_trains:
            hidden = FP32 * tokens * head.hidden
            yield from (tile, hidden, -tile, -hidden)


def peak(events: Iterator[int], quantum_bytes: int) -> int:
    """The highest sum of allocations, each rounded up to the allocator's quantum."""
    rounded = [
        -(-size // quantum_bytes) * quantum_bytes if size > 0 else size // quantum_bytes * quantum_bytes
        for size in events
    ]
    return max(accumulate(rounded), default=0)
