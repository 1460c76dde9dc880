"""Grouped matrix products of mixture-of-experts layers in dtypes other than bf16.

PyTorch multiplies fp32 and fp16 groups one by one into the same output (aten/src/ATen/native/GroupedMMUtils.h), but its
shape function, which fake tensors use, admits bf16 alone.
"""

from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten


def grouped_mm(
    mat_a: torch.Tensor,
    mat_b: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The output of ``aten._grouped_mm``, shaped as for bf16 and in the dtype of the input."""
    with _disable_current_modes():
        like = aten._grouped_mm.default(
            _on_meta(mat_a, torch.bfloat16),
            _on_meta(mat_b, torch.bfloat16),
            None if offs is None else _on_meta(offs, offs.dtype),
        )
    return torch.empty_strided(like.shape, like.stride(), dtype=out_dtype or mat_a.dtype, device=mat_a.device)


def _on_meta(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device="meta")


def shaped_kernels(dtypes: set[str]) -> dict[Any, Any]:
    """What to run instead on fake tensors, when weights are of these dtypes."""
    return {} if dtypes == {"bf16"} else {aten._grouped_mm.default: grouped_mm}
