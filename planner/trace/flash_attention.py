"""FlashAttention 2 without a GPU: functions with its signatures that allocate what it allocates and compute nothing.

    forward     out like q, logsumexp in fp32, the generator's state (two int64); q, k, v and these are saved
    backward    dq, dk, dv like q, k, v; what the kernel allocates inside is in kernel_buffers.py
    padded      rows are taken together without their padding, and put back after (varlen): how many tokens that leaves
                is data, so the most there can be is counted, all of them
    dropout     needs no mask: the backward draws the same numbers again

Head dimensions that are not a multiple of 8 are padded to one. Sources: flash-attention 2.8, flash_attn_interface.py
(FlashAttnFunc, FlashAttnVarlenFunc), flash_attn/bert_padding.py (pad_input, IndexPutFirstAxis),
csrc/flash_attn/flash_api.cpp (mha_fwd, mha_bwd, mha_varlen_fwd, mha_varlen_bwd); transformers'
modeling_flash_attention_utils.py, whose own code around these functions runs as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch.nn.functional as F

from vramplan.planner.dims import FLASH_ROWS
from vramplan.planner.memory.groups import round_up
from vramplan.planner.trace.kernel_buffers import flash_buffers

ALIGNMENT = 8


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """Rows of one length (B, S, heads, head_dim), or all tokens in a row (T, heads, head_dim) with their ends."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, ends: torch.Tensor | None) -> torch.Tensor:
        head_dim = q.shape[-1]
        q, k, v = (_aligned(tensor) for tensor in (q, k, v))
        out = torch.empty_like(q)
        lse_shape = (q.shape[1], q.shape[0]) if q.dim() == 3 else (q.shape[0], q.shape[2], q.shape[1])
        logsumexp = torch.empty(lse_shape, dtype=torch.float32)
        state = torch.empty(2, dtype=torch.int64)
        ctx.head_dim = head_dim
        ctx.save_for_backward(q, k, v, out, logsumexp, state, *([] if ends is None else [ends]))
        return out[..., :head_dim]

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        q, k, v, _out, _logsumexp, _state, *ends = ctx.saved_tensors
        gradient = _aligned(grads[0])
        dq, dk, dv = (torch.empty_like(tensor) for tensor in (q, k, v))
        inside = _kernel_buffers(q, k, rows=ends[0].shape[0] - 1 if ends else None)
        del gradient, inside
        return *(grad[..., : ctx.head_dim] for grad in (dq, dk, dv)), None


def _aligned(tensor: torch.Tensor) -> torch.Tensor:
    padding = -tensor.shape[-1] % ALIGNMENT
    return F.pad(tensor, (0, padding)) if padding else tensor


def _kernel_buffers(q: torch.Tensor, k: torch.Tensor, *, rows: int | None) -> list[torch.Tensor]:
    """What the backward allocates inside; with ``rows``, of that many rows taken together."""
    *tokens, heads, _ = q.shape
    # (T + 128 rows, ...) in two parts, so that each is a product of sizes; 128 of anything is a whole block
    whole = [(*tokens[:-1], round_up(tokens[-1], FLASH_ROWS), heads)]
    padded = whole if rows is None else [(*tokens, heads), (rows, FLASH_ROWS, heads)]
    inside = flash_buffers(padded, tuple(q.shape), q.dtype, grouped=k.shape[-2] != heads)
    return [torch.empty(shape, dtype=dtype) for shape, dtype in inside]


def _attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Any:
    return _Attention.apply(q, k, v, None)


def _attention_of_varying_lengths(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Any:
    return _Attention.apply(q, k, v, cu_seqlens_q)


class _PutBack(torch.autograd.Function):  # type: ignore[misc]
    """Tokens to their places in a padded tensor of zeros."""

    @staticmethod
    def forward(ctx: Any, tokens: torch.Tensor, indices: torch.Tensor, places: int) -> torch.Tensor:
        ctx.save_for_backward(indices)
        return torch.zeros(places, *tokens.shape[1:], dtype=tokens.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return grads[0][ctx.saved_tensors[0]], None, None


def _pad_input(tokens: torch.Tensor, indices: torch.Tensor, batch: int, length: int) -> torch.Tensor:
    padded: torch.Tensor = _PutBack.apply(tokens, indices, batch * length)
    return padded.view(batch, length, *tokens.shape[1:])


def every_index(tensor: torch.Tensor) -> torch.Tensor:
    """``nonzero`` of a mask on fake tensors: the most there can be."""
    return torch.empty((tensor.numel(), tensor.dim()), dtype=torch.int64)


@contextmanager
def flash_attention_2(*, packed: bool = False) -> Iterator[None]:
    """transformers finds FlashAttention 2 inside, for models that support it.

    Args:
        packed: position ids start again within a row.
    """
    import transformers.modeling_flash_attention_utils as utilities
    from transformers import modeling_utils

    process = utilities._lazy_define_process_function(_attention_of_varying_lengths)
    functions = (_attention, _attention_of_varying_lengths, None, _pad_input, utilities._unpad_input)
    looks: Callable[..., Any] = utilities._is_packed_sequence

    def is_packed(position_ids: Any, batch_size: int) -> bool:
        return looks(position_ids, batch_size) is not False and packed

    def imported(*args: Any, **kwargs: Any) -> Any:
        return functions, (process, dict)

    with ExitStack() as stack:
        for module in (utilities, modeling_utils):
            stack.enter_context(patch.object(module, "lazy_import_flash_attention", imported))
        stack.enter_context(patch.object(utilities, "_is_packed_sequence", is_packed))
        stack.enter_context(patch.object(modeling_utils.PreTrainedModel, "_flash_attn_can_dispatch", _supports))
        yield


def _supports(model: Any, *args: Any, **kwargs: Any) -> bool:
    if not model._supports_flash_attn:
        raise ValueError(f"transformers has no FlashAttention 2 for {model.config.model_type}")
    return True
