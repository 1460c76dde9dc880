"""The loss as the executor runs it: TRL's fused LM head, on the route of the device that will run.

TRL branches on the device (trl/trainer/utils.py, add_fused_lm_head): with Triton it scores only positions that carry a
label and folds tiles in place; elsewhere it scores every position with fp32 tiles. The tile loop itself becomes one
macro, because its number of tiles depends on the sizes: planner/memory/fused_loss.py replays it.
"""

import types
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from vramplan.planner.trace.tracker import Tracker

FUSED_OUTPUTS = ("log_probs", "entropy", "is_top1")
"""What SFTTrainer asks of the fused head (trl/trainer/sft_trainer.py)."""


def add_fused_head(model: nn.Module) -> None:
    """Give the model TRL's fused LM head, as SFTTrainer does after PEFT wrapping."""
    from trl.trainer.utils import add_fused_lm_head

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    add_fused_lm_head(base, outputs=FUSED_OUTPUTS)


def add_autocast(model: nn.Module, dtype: torch.dtype, device_type: str = "cpu") -> None:
    """Run forward under autocast and return fp32 outputs (accelerate/accelerator.py, prepare_model)."""
    from accelerate.utils.operations import convert_outputs_to_fp32

    forward: Any = model.forward
    model.forward = types.MethodType(torch.autocast(device_type, dtype=dtype)(forward.__func__), model)
    wrapped: Any = model.forward
    model.forward = types.MethodType(convert_outputs_to_fp32(wrapped.__func__), model)


class _InPlaceKernel:
    """Stands for a Triton kernel: allocates nothing a caller can see; on real tensors it does the arithmetic."""

    def __init__(self, reference: Any) -> None:
        self.reference = reference

    def __getitem__(self, grid: Any) -> Any:
        def launch(tile: torch.Tensor, *args: Any, **kwargs: Any) -> None:
            if not isinstance(tile, FakeTensor):
                with _disable_current_modes():
                    self.reference(tile, *args, **kwargs)

        return launch


def _addmm_in_place(acc: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    """CUDA's ``addmm(out_dtype=fp32, out=acc)`` needs no temporary."""
    if not isinstance(acc, FakeTensor):
        with _disable_current_modes():
            acc.addmm_(a.float(), b.float())


@contextmanager
def fused_loss(route: str, tracker: Tracker | None, *, as_macro: bool = True) -> Iterator[None]:
    """TRL's fused loss on ``route``; with a tracker, its tile loops become macros."""
    import trl.kernels.chunked_logprob as kernels
    import trl.trainer.utils as trainer_utils

    original = trainer_utils._ChunkedLogProbFunction
    with ExitStack() as stack:

        def replace(module: Any, name: str, value: Any) -> None:
            stack.enter_context(patch.object(module, name, value, create=True))

        if route == "cuda":
            for module in (kernels, trainer_utils):
                replace(module, "_use_triton", lambda device: True)
            replace(kernels, "_forward_kernel", _InPlaceKernel(kernels._forward_tile))
            replace(kernels, "_backward_kernel", _InPlaceKernel(kernels._backward_tile))
            replace(kernels, "_addmm_fp32", _addmm_in_place)
            if not hasattr(kernels, "triton"):
                replace(kernels, "triton", types.SimpleNamespace(cdiv=lambda a, b: -(-a // b)))
        if tracker is not None and as_macro:
            replace(trainer_utils, "_ChunkedLogProbFunction", _as_macro(original, tracker))
        yield


def _as_macro(function: Any, tracker: Tracker) -> Any:
    """The autograd function with its forward and backward each logged as one macro."""

    class Marked(function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, *rest: Any) -> Any:
            # rest: bias, targets, temperature, chunk_size, final_logit_softcapping, logit_scale, outputs
            flags = _flags(hidden, weight, rest[4]) | _bias_flags(rest[0])
            with tracker.macro("fused_forward", _sizes(hidden, weight), **flags):
                return function.forward(ctx, hidden, weight, *rest)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            hidden, weight, bias = ctx.saved_tensors[:3]
            flags = _flags(hidden, weight, None, ctx.compute_dtype) | _bias_flags(bias, ctx.needs_input_grad[2])
            flags["softcap"] = ctx.kernel_args["HAS_SOFTCAP"]
            flags["head_trains"] = ctx.needs_input_grad[1]
            with tracker.macro("fused_backward", _sizes(hidden, weight), **flags):
                return function.backward(ctx, *grads)

    return Marked


def _bias_flags(bias: torch.Tensor | None, trains: bool = False) -> dict[str, Any]:
    """Nothing where the head has no bias, as most have none."""
    return {} if bias is None else {"bias_bytes": bias.element_size(), "bias_trains": trains}


def _sizes(hidden: torch.Tensor, weight: torch.Tensor) -> dict[str, int]:
    return {"tokens": hidden.shape[0], "hidden": hidden.shape[1], "vocabulary": weight.shape[0]}


def _flags(
    hidden: torch.Tensor, weight: torch.Tensor, softcap: float | None, compute: torch.dtype | None = None
) -> dict[str, Any]:
    device = hidden.device.type
    if compute is None:
        compute = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    return {
        "hidden_bytes": hidden.element_size(),
        "weight_bytes": weight.element_size(),
        "compute_bytes": compute.itemsize,
        "softcap": softcap is not None,
        "head_trains": False,
    }
