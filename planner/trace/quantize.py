"""bitsandbytes 4-bit linears on a skeleton: the storages ``from_pretrained`` leaves on the device, without weights.

Packed weight: ceil(numel / 2) bytes. Absmax: one per block of 64, fp32, or with double quantisation uint8 plus an fp32
per 256 of them and one fp32 offset (Dettmers et al., 2023, section 3; bitsandbytes/functional.py, quantize_4bit).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from vramplan.planner.device import Route
from vramplan.planner.tasks import HEAD_NAMES
from vramplan.planner.trace import int8
from vramplan.planner.trace.skeleton import TORCH_DTYPES

BLOCK_SIZE = 64
NESTED_BLOCK_SIZE = 256


def quantize_skeleton(model: nn.Module, *, quant: str, double_quant: bool, dtype: str, compute_dtype: str) -> nn.Module:
    """Replace every ``nn.Linear`` and ``Conv1D`` but the output head by a ``Linear4bit`` (or ``Linear8bitLt``) with
    meta storages.

    The output embeddings stay as they are, as transformers' quantizers/base.py has it.
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    dtypes = TORCH_DTYPES[dtype], TORCH_DTYPES[compute_dtype]
    for path, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            if child is head or f"{path}.{name}".lstrip(".").partition(".")[0].endswith(HEAD_NAMES):
                continue
            if type(child) is nn.Linear:
                shape = (child.out_features, child.in_features)
            elif isinstance(child, Conv1D):
                shape = (child.weight.shape[1], child.weight.shape[0])
            else:
                continue
            if quant == "int8":
                setattr(module, name, int8.linear_8bit(shape, child.bias))
                continue
            setattr(module, name, _linear_4bit(shape, child.bias, quant, double_quant, *dtypes))
    setattr(model, "is_loaded_in_8bit" if quant == "int8" else "is_loaded_in_4bit", True)
    model.is_quantized = True
    return model


def _linear_4bit(
    shape: tuple[int, int],
    bias: nn.Parameter | None,
    quant: str,
    double_quant: bool,
    dtype: torch.dtype,
    compute_dtype: torch.dtype,
) -> nn.Module:
    import bitsandbytes as bnb

    rows, columns = shape
    state = _quant_state((rows, columns), quant, double_quant, dtype)
    with torch.device("meta"):
        quantized: Any = bnb.nn.Linear4bit(
            columns,
            rows,
            bias=bias is not None,
            compute_dtype=compute_dtype,
            compress_statistics=double_quant,
            quant_type=quant,
        )
    packed = torch.empty((-(-rows * columns // 2), 1), dtype=torch.uint8, device="meta")
    quantized.weight = bnb.nn.Params4bit(
        packed,
        requires_grad=False,
        quant_state=state,
        quant_type=quant,
        compress_statistics=double_quant,
        bnb_quantized=True,
        module=quantized,
    )
    quantized.quant_state = state
    if bias is not None:
        quantized.bias = bias
    quantized.requires_grad_(False)
    module: nn.Module = quantized
    return module


def _quant_state(shape: tuple[int, int], quant: str, double_quant: bool, dtype: torch.dtype) -> Any:
    from bitsandbytes.functional import QuantState

    def meta(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device="meta")

    blocks = -(-shape[0] * shape[1] // BLOCK_SIZE)
    common = {"shape": torch.Size(shape), "dtype": dtype, "blocksize": BLOCK_SIZE, "quant_type": quant}
    code = meta((16,), torch.float32)
    if not double_quant:
        return QuantState(absmax=meta((blocks,), torch.float32), code=code, **common)
    nested = QuantState(
        absmax=meta((-(-blocks // NESTED_BLOCK_SIZE),), torch.float32),
        code=meta((256,), torch.float32),
        blocksize=NESTED_BLOCK_SIZE,
        dtype=torch.float32,
    )
    return QuantState(
        absmax=meta((blocks,), torch.uint8), code=code, offset=meta((), torch.float32), state2=nested, **common
    )


def prepare_kbit(model: nn.Module) -> nn.Module:
    """peft's prepare_model_for_kbit_training: whatever is fp16 or bf16 and not quantised becomes fp32, fused experts
    too. The trainer turns checkpointing on later, with the same arguments for every method."""
    from peft import prepare_model_for_kbit_training

    prepared: nn.Module = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return prepared


@contextmanager
def opened_dora() -> Iterator[None]:
    """DoRA dequantises the base by the class of its weight, which a traced weight does not have
    (peft/tuners/lora/dora.py; planner/trace/skeleton.py)."""
    import bitsandbytes as bnb
    import peft.tuners.lora.dora as dora

    original = dora.dequantize_module_weight

    def dequantize(module: Any) -> Any:
        state = getattr(module.weight, "quant_state", None)
        if state is None:
            return original(module)
        if module.weight.device.type == "meta":
            return torch.empty(state.shape, dtype=state.dtype, device="meta")
        return bnb.functional.dequantize_4bit(module.weight.data, state)

    # PEFT copies the layer it only reads, and bitsandbytes cannot copy one without weights
    with (
        patch.object(dora, "dequantize_module_weight", dequantize),
        patch.object(dora, "deepcopy", lambda layer: layer),
    ):
        yield


def quantization_tensors(model: nn.Module) -> list[torch.Tensor]:
    """absmax, code and offset of every 4-bit weight, nested ones included; the row scales of 8-bit ones."""
    found = []
    for module in model.modules():
        state = getattr(module, "quant_state", None)
        if state is not None:
            parts = (state, state.state2)
            found += [t for part in parts if part is not None for t in (part.absmax, part.code, part.offset)]
    return [t for t in found if isinstance(t, torch.Tensor)] + int8.row_scales(model)


def opened_kernels(route: Route = "cpu") -> dict[Any, Any]:
    """bitsandbytes' opaque 4-bit matmul, run as dequantise + linear so that the dequantised weight is seen
    (bitsandbytes/backends/default/ops.py)."""
    import bitsandbytes  # noqa: F401  registers the operation
    from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

    opened = {torch.ops.bitsandbytes.gemm_4bit.default: _gemm_4bit_default_impl}
    return opened | (int8.opened_kernels() if route == "cuda" else {})
