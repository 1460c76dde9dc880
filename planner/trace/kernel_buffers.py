"""Buffers that attention kernels allocate from PyTorch's allocator inside their backward, and free before they return:
no Python sees them. One table, by operation: f(*args) -> [(shape, dtype)].
"""

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
Buffers = list[tuple[tuple[int, ...], torch.dtype]]


def flash_backward(*args: Any) -> Buffers:
    """FlashAttention-2: softmax_d and dq_accum in fp32, rows padded to 128 and head_dim to 32 (64 above 128); for
    grouped-query attention dk and dv expanded to all heads.
    Source: flash-attention csrc/flash_attn/flash_api.cpp, mha_bwd."""
    query, key = args[1], args[2]
    batch, heads, length, head_dim = query.shape
    rows = _up(length, 128)
    columns = _up(head_dim, 32) if head_dim <= 128 else _up(head_dim, 64)
    buffers: Buffers = [
        ((batch, heads, rows), torch.float32),
        ((batch, heads, rows, columns), torch.float32),
    ]
    if key.shape[1] != heads:
        buffers += [((batch, length, heads, head_dim), query.dtype)] * 2
    return buffers


def efficient_backward(*args: Any) -> Buffers:
    """The memory-efficient kernel: delta in fp32, and the gradient of the queries in fp32 in blocks of rows; beyond
    head_dim 128 the gradients of keys and values too. The kernel's blocks are 64 x 64 up to head_dim 64 and 128 x 128
    above; rows to 128 and head_dim to 32 are the same for head_dim 64 and 128, and its locks (16 bytes a block) are
    left out.
    Source: aten/src/ATen/native/transformers/cuda/attention_backward.cu and mem_eff_attention/kernel_backward.h
    (workspace_elements_gq, kNeedsAccumGradQ, kOutputInRF) for compute capability 8.0."""
    query, value = args[1], args[3]
    batch, heads, length, head_dim = query.shape
    columns = _up(head_dim, 32) if head_dim <= 128 else _up(head_dim, 64)
    buffers: Buffers = [
        ((batch, heads, length), torch.float32),
        ((batch, heads, _up(length, 128), columns), torch.float32),
    ]
    if head_dim > 128:
        buffers += [((batch, heads, _up(value.shape[2], 128), columns), torch.float32)] * 2
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


def _up(size: int, step: int) -> int:
    return -(-size // step) * step


CUDA_BUFFERS: dict[Any, Callable[..., Buffers]] = {
    aten._scaled_dot_product_flash_attention_backward.default: flash_backward,
    aten._scaled_dot_product_efficient_attention_backward.default: efficient_backward,
    aten._scaled_dot_product_cudnn_attention_backward.default: cudnn_backward,
}
