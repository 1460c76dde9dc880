"""bitsandbytes 8-bit linears (Dettmers et al., 2022, arXiv:2208.07339) on a skeleton, and CUDA's matmul of them.

A weight is one byte an element and an fp32 scale a row. In the forward the inputs are quantised too, but for the few
columns that hold outliers, which are multiplied in 16 bits; the backward dequantises the weight
(bitsandbytes/autograd/_functions.py, MatMul8bitLt; on a CPU MatMul8bitFp, which dequantises in both directions).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

OUTLIER_COLUMNS = 7
"""How many there are is data. The paper found no more than this in transformers of up to 13 B parameters (section
3.2)."""
THRESHOLD = 6.0
"""llm_int8_threshold, transformers' BitsAndBytesConfig."""


def linear_8bit(shape: tuple[int, int], bias: nn.Parameter | None) -> nn.Module:
    """A ``Linear8bitLt`` as it is after loading, on the meta device."""
    import bitsandbytes as bnb

    rows, columns = shape
    with torch.device("meta"):
        module: Any = bnb.nn.Linear8bitLt(
            columns, rows, bias=bias is not None, has_fp16_weights=False, threshold=THRESHOLD
        )
    weight = torch.empty(shape, dtype=torch.int8, device="meta")
    module.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
    module.bias = bias
    module.requires_grad_(False)
    linear: nn.Module = module
    return linear


def restore_states(model: nn.Module) -> None:
    """Row scales and the quantised weight where the first forward of a loaded model puts them: a traced weight is a
    plain parameter and cannot carry them."""
    for module in model.modules():
        if type(module).__name__ == "Linear8bitLt" and hasattr(module, "state"):
            layer: Any = module
            layer.weight.CB = None
            layer.state.CB = layer.weight.data
            layer.state.SCB = torch.ones(layer.out_features)


def row_scales(model: nn.Module) -> list[torch.Tensor]:
    """The fp32 scales of every 8-bit linear."""
    scales = [getattr(getattr(module, "state", None), "SCB", None) for module in model.modules()]
    return [scale for scale in scales if scale is not None]


@contextmanager
def cuda_matmul() -> Iterator[None]:
    """CUDA's 8-bit matmul, whatever the device."""
    import bitsandbytes as bnb
    from bitsandbytes.autograd._functions import MatMul8bitLt

    def matmul(a: Any, b: Any, out: Any = None, state: Any = None, threshold: float = 0.0, bias: Any = None) -> Any:
        return MatMul8bitLt.apply(a, b, out, bias, state)

    with patch.object(bnb, "matmul", matmul):
        yield


def opened_kernels() -> dict[Any, Any]:
    """CUDA's kernels with the tensors they make (bitsandbytes/backends/cuda/ops.py and default/ops.py)."""
    import bitsandbytes  # noqa: F401  registers the operations

    ops = torch.ops.bitsandbytes
    return {ops.int8_vectorwise_quant.default: _quantize, ops.int8_mixed_scaled_mm.default: _multiply}


def _quantize(a: torch.Tensor, threshold: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    row_stats = torch.empty(a.numel() // a.shape[-1], dtype=torch.float32)
    quantized = torch.empty(a.shape, dtype=torch.int8)
    outliers = a.abs() >= threshold
    by_column = outliers.any(dim=0)
    del outliers, by_column
    return quantized, row_stats, torch.empty(0, dtype=torch.int64)


def _multiply(
    a: torch.Tensor,
    ca: torch.Tensor,
    cb: torch.Tensor,
    sca: torch.Tensor,
    scb: torch.Tensor,
    outlier_cols: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    rows = cb.shape[0]
    outliers = torch.empty((a.shape[0], OUTLIER_COLUMNS), dtype=a.dtype)
    weights = torch.empty((rows, OUTLIER_COLUMNS), dtype=cb.dtype)
    weights = (weights * scb.view(-1, 1) * (1 / 127)).to(a.dtype).t()
    products = torch.empty((a.shape[0], rows), dtype=torch.int32)
    output = torch.empty_like(products, dtype=torch.float16)
    output = output.to(a.dtype)
    del products
    if bias is not None and a.dtype != torch.float16:
        output.add_(bias)
    return output.addmm(outliers, weights), outliers
