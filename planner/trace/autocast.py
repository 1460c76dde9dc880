"""CUDA's autocast rules on tensors that are not on a GPU.

Autocast keeps a list of operations per device that it runs in fp32. CUDA's is longer than the CPU's: layer norms,
powers and reductions are on it, which doubles what they save. Source: aten/src/ATen/autocast_mode.h, AT_FORALL_FP32
and AT_FORALL_FP32_SET_OPT_DTYPE; the CPU's list is AT_FORALL_FP32 for CPU in autocast_mode.cpp.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils._pytree as pytree

FP32_OPERATIONS = (
    "layer_norm",
    "native_layer_norm",
    "group_norm",
    "rsqrt",
    "exp",
    "log",
    "reciprocal",
    "softplus",
    "pow.Tensor_Scalar",
    "pow.Tensor_Tensor",
    "cumsum",
    "cumprod",
    "prod",
    "sum",
    "sum.dim_IntList",
    "softmax.int",
    "log_softmax.int",
    "norm.Scalar",
    "nll_loss",
    "nll_loss_nd",
    "binary_cross_entropy_with_logits",
    "mse_loss",
)
SOFTMAXES = ("softmax.int", "log_softmax.int")
"""They take the wider dtype as an argument, so no cast of the input is kept."""


def _in_fp32(name: str) -> Any:
    packet, _, overload = name.partition(".")
    operation = getattr(getattr(torch.ops.aten, packet), overload or "default")

    def widened(value: Any) -> Any:
        lower = isinstance(value, torch.Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        return value.to(torch.float32) if lower else value

    def run(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cpu", enabled=False):
            if name in SOFTMAXES:
                lower = args[0].dtype in (torch.bfloat16, torch.float16)
                given = args[2] if len(args) > 2 else kwargs.get("dtype")
                dtype = given or (torch.float32 if lower else None)
                return operation(args[0], args[1], dtype)
            args, kwargs = pytree.tree_map(widened, (args, kwargs))
            return operation(*args, **kwargs)

    return run


@contextmanager
def cuda_autocast() -> Iterator[None]:
    """Inside, ``torch.autocast("cpu")`` follows CUDA's list of fp32 operations."""
    library = torch.library.Library("aten", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # overriding the CPU's rule is the point
        for name in FP32_OPERATIONS:
            library.impl(name, _in_fp32(name), "AutocastCPU", allow_override=True)
    enabled = torch.is_autocast_enabled
    # without a device this asks about CUDA, and PEFT's quantised layers do (peft/tuners/lora/bnb.py)
    torch.is_autocast_enabled = lambda device_type="cuda": enabled("cpu" if device_type == "cuda" else device_type)
    try:
        yield
    finally:
        torch.is_autocast_enabled = enabled
        library._destroy()
