"""Buffers that attention's kernels allocate from PyTorch's allocator inside, and free before they return: no Python
sees them. A table for each route, by operation: f(*args) -> [(shape, dtype)].
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from vramplan.planner.dims import FLASH_ROWS, flash_head_dim
from vramplan.planner.memory.groups import round_up

aten = torch.ops.aten
Shape = tuple[int, ...]
Buffers = list[tuple[Shape, torch.dtype]]


def flash_buffers(rows: Sequence[Shape], query: Shape, dtype: torch.dtype, *, grouped: bool) -> Buffers:
    """FlashAttention-2's backward: softmax_d and dq_accum in fp32, rows and head_dim padded; for grouped-query
    attention dk and dv expanded to all heads. Source: flash-attention csrc/flash_attn/flash_api.cpp, mha_bwd.

    Args:
        rows: every row of every head, padded: the shape of softmax_d, or of its parts.
        query: the shape of the queries, head_dim last.
    """
    columns = flash_head_dim(query[-1])
    buffers: Buffers = [(shape, torch.float32) for shape in rows]
    buffers += [((*shape, columns), torch.float32) for shape in rows]
    return buffers + [(query, dtype)] * (2 if grouped else 0)


def flash_backward(*args: Any) -> Buffers:
    """PyTorch's FlashAttention-2, heads before rows."""
    query, key = args[1], args[2]
    batch, heads, length, head_dim = query.shape
    rows = [(batch, heads, round_up(length, FLASH_ROWS))]
    return flash_buffers(rows, (batch, length, heads, head_dim), query.dtype, grouped=key.shape[1] != heads)


def efficient_backward(*args: Any) -> Buffers:
    """The memory-efficient kernel: delta in fp32, and the gradient of the queries in fp32 in blocks of rows; beyond
    head_dim 128 the gradients of keys and values too. The kernel's blocks are 64 x 64 up to head_dim 64 and 128 x 128
    above; rows to 128 and head_dim to 32 are the same for head_dim 64 and 128, and its locks (16 bytes a block) are
    left out.
    Source: aten/src/ATen/native/transformers/cuda/attention_backward.cu and mem_eff_attention/kernel_backward.h
    (workspace_elements_gq, kNeedsAccumGradQ, kOutputInRF) for compute capability 8.0."""
    query, value = args[1], args[3]
    batch, heads, length, head_dim = query.shape
    columns = flash_head_dim(head_dim)
    buffers: Buffers = [
        ((batch, heads, length), torch.float32),
        ((batch, heads, round_up(length, 128), columns), torch.float32),
    ]
    if head_dim > 128:
        buffers += [((batch, heads, round_up(value.shape[2], 128), columns), torch.float32)] * 2
    return buffers


def cudnn_backward(*args: Any) -> Buffers:
    """cuDNN: the sum of the softmax and the gradient of the queries, in fp32; for grouped-query attention the gradients
    of keys and values for all heads.
    Source: cudnn-frontend include/cudnn_frontend/node/scaled_dot_product_flash_attention.h,
    CompositeSDPABackwardNode (softmax_sum_size, dQ_accum_size, dK_fullhead, dV_fullhead)."""
    query, key = args[1], args[2]
    batch, heads, length, head_dim = query.shape
    buffers: Buffers = [((batch, heads, length), torch.float32), ((batch, heads, length, head_dim), torch.float32)]
    if key.shape[1] != heads:
        buffers += [((batch, heads, key.shape[2], head_dim), query.dtype)] * 2
    return buffers


def safe_softmax(*args: Any) -> Buffers:
    """The math path's softmax: which scores are minus infinity, and in which rows all are
    (aten/src/ATen/native/transformers/attention.cpp, _safe_softmax)."""
    scores = args[0]
    return [(tuple(scores.shape), torch.bool), ((*scores.shape[:-1], 1), torch.bool)]


CPU_BUFFERS: dict[Any, Callable[..., Buffers]] = {aten._safe_softmax.default: safe_softmax}
CUDA_BUFFERS: dict[Any, Callable[..., Buffers]] = {
    aten._scaled_dot_product_flash_attention_backward.default: flash_backward,
    aten._scaled_dot_product_efficient_attention_backward.default: efficient_backward,
    aten._scaled_dot_product_cudnn_attention_backward.default: cudnn_backward,
    **CPU_BUFFERS,
}
