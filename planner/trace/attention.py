"""Scaled-dot-product attention routed as a CUDA build of PyTorch would, on tensors that are not on a GPU.

Which kernel runs decides what is saved for the backward, and with it most of the activations:
where cuDNN comes first (Hopper and data-centre Blackwell, cuDNN above 9.15): half precision, head_dim a multiple of 8
up to 256 -> cuDNN, with or without a mask;
no mask, half precision, head_dim <= 256, compute capability 8.0 or above -> FlashAttention (saves q, k, v, out,
logsumexp);
as many key/value heads as heads, and no bf16 below 8.0 -> the memory-efficient kernel (mask expanded, its rows padded
to 16);
otherwise the math path, which keeps scores of every head, S x S. transformers repeats keys and values only where there
is a mask (integrations/sdpa_attention.py, use_gqa_in_sdpa), so grouped heads in fp32, or on a device without
FlashAttention, come there. Sources: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp (priority and conditions:
check_prefer_cudnn_attention, check_flash_attention_hardware_support, check_batch_size_and_num_heads_dense,
less_than_sm80_mem_efficient_dtypes) and transformers/attention.cpp (pre-processing: pad_bias, head_dim padding). What
the kernels allocate inside: kernel_buffers.py.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

aten = torch.ops.aten
LARGEST_CUDNN_HEAD = 256


def cuda_sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
    *,
    cudnn_first: bool = False,
    ampere: bool = True,
) -> torch.Tensor:
    """``F.scaled_dot_product_attention`` as CUDA dispatches it. Shapes (B, heads, S, head_dim).

    Args:
        ampere: compute capability 8.0 or above.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        query, key, value = (t.to(dtype) if t.dtype == torch.float32 else t for t in (query, key, value))
    half = query.dtype in (torch.bfloat16, torch.float16)
    head_dim = query.shape[-1]
    same_head_dim = head_dim == key.shape[-1] == value.shape[-1]
    if cudnn_first and half and all(t.shape[-1] % 8 == 0 and t.shape[-1] <= LARGEST_CUDNN_HEAD for t in (query, value)):
        bias = _as_bias(attn_mask, query)
        return _biased(aten._scaled_dot_product_cudnn_attention, query, key, value, bias, dropout_p, is_causal, scale)
    if attn_mask is None and half and same_head_dim and head_dim <= 256 and ampere:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    alignment = 8 if half else 4
    aligned = head_dim % alignment == 0 and value.shape[-1] % alignment == 0
    if aligned and query.shape[1] == key.shape[1] and (ampere or query.dtype != torch.bfloat16):
        bias = _padded(_as_bias(attn_mask, query), query, key)
        efficient = aten._scaled_dot_product_efficient_attention
        return _biased(efficient, query, key, value, bias, dropout_p, is_causal, scale)
    return _math(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


def _math(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
) -> torch.Tensor:
    """PyTorch's own composition of products and softmax; half precision is computed in fp32. Autocast ends where sdpa
    begins (aten/src/ATen/autocast_mode.h: every wrapped operation excludes it inside)."""
    math = aten._scaled_dot_product_attention_math
    with torch.autocast("cpu", enabled=False):
        out: torch.Tensor = math(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )[0]
    return out


def _flash(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, dropout_p: float, is_causal: bool, scale: float | None
) -> torch.Tensor:
    head_dim = query.shape[-1]
    padding = -head_dim % 8
    if padding:
        scale = head_dim**-0.5 if scale is None else scale
        query, key, value = (F.pad(t, (0, padding)) for t in (query, key, value))
    out = aten._scaled_dot_product_flash_attention(query, key, value, dropout_p, is_causal, False, scale=scale)[0]
    return out[..., :head_dim] if padding else out


def _biased(
    kernel: Callable[..., Any],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> torch.Tensor:
    """A kernel that adds ``bias`` to the scores, and keeps logsumexp where something trains."""
    saves = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    out: torch.Tensor = kernel(query, key, value, bias, saves, dropout_p, is_causal, scale=scale)[0]
    return out


def _padded(bias: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor | None:
    """A bias as the memory-efficient kernel takes it (pad_bias): for every row of every head, rows padded to 16."""
    if bias is None:
        return None
    length = bias.shape[-1]
    if length % 16:
        bias = F.pad(bias, (0, -length % 16))[..., :length]
    return bias.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])


def _as_bias(attn_mask: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """A boolean mask as what is added to the scores (convert_boolean_attn_mask)."""
    if attn_mask is None or attn_mask.dtype != torch.bool:
        return attn_mask
    zero = torch.zeros((), dtype=query.dtype, device=query.device)
    low = torch.full((), float("-inf"), dtype=query.dtype, device=query.device)
    return torch.where(attn_mask, zero, low)


def _cuda_dropout(input: torch.Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> torch.Tensor:
    """CUDA's dropout keeps a boolean mask; the CPU's keeps a float one."""
    if not training or p == 0.0:
        return input
    out: torch.Tensor = torch.native_dropout(input, p, True)[0]
    return out


@contextmanager
def cuda_kernels(*, cudnn_first: bool = False, ampere: bool = True) -> Iterator[None]:
    """Attention and dropout take CUDA's paths inside."""
    sdpa, dropout = F.scaled_dot_product_attention, F.dropout
    F.scaled_dot_product_attention = partial(cuda_sdpa, cudnn_first=cudnn_first, ampere=ampere)
    F.dropout = _cuda_dropout
    try:
        yield
    finally:
        F.scaled_dot_product_attention, F.dropout = sdpa, dropout
