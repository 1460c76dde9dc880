"""Our names of float types, as torch's."""

from typing import Any

from vramplan.planner.dtypes import FloatDtype


def torch_dtype(dtype: FloatDtype) -> Any:
    """The ``torch.dtype`` of one of our names."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
