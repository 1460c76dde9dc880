"""Static memory, counted on live objects: weights, quantisation state, adapter, buffers, gradients, optimizer.

Every distinct storage counts once (tied weights share one), at its own size, rounded up to the allocator's grain:
1 byte on a CPU, 512 on CUDA (``kMinBlockSize`` in c10/core/AllocatorConfig.h), where each allocation takes a multiple.
"""

import gc
from collections.abc import Callable, Iterable
from typing import Any

from vramplan.planner.memory.budget import Component

CUDA_GRAIN_BYTES = 512


def grain_bytes(device_type: str) -> int:
    """What an allocation is rounded up to on this kind of device."""
    return CUDA_GRAIN_BYTES if device_type == "cuda" else 1


def model_bytes(model: Any, device_type: str) -> dict[Component, int]:
    """Bytes of the model as it stands: ``weights``, ``quantization_state``, ``adapter`` and ``buffers``.

    ``adapter`` is what PEFT added and trains; under full fine-tuning every parameter is a weight. Gradients are not in
    here: they live only between a backward pass and the optimizer's step (``gradient_bytes``).
    """
    peft = hasattr(model, "peft_config")
    seen: set[int] = set()
    count = _counter(seen, device_type)
    adapter = [p for p in model.parameters() if peft and p.requires_grad]
    weights = [p for p in model.parameters() if not (peft and p.requires_grad)]
    quantized = [tensor for holder in (*weights, *model.modules()) for tensor in _quantization_tensors(holder)]
    return {
        "weights": count(weights),
        "quantization_state": count(quantized),
        "adapter": count(adapter),
        "buffers": count([*model.buffers(), *getattr(model, "prompt_tokens", {}).values()]),
    }


def gradient_bytes(model: Any, device_type: str) -> int:
    """Bytes of the gradients that exist now."""
    return _counter(set(), device_type)(p.grad for p in model.parameters() if p.grad is not None)


def optimizer_bytes(optimizer: Any, device_type: str) -> int:
    """Bytes of the optimizer's states on this device; none exist before its first step."""
    states = getattr(optimizer, "optimizer", optimizer).state
    return _counter(set(), device_type)(tensor for state in states.values() for tensor in _tensors(state))


def live_bytes(device_type: str) -> int:
    """Bytes of every storage Python can reach on this kind of device, and of DDP's buckets, which it cannot: the base
    that memory events are added to."""
    return _counter(set(), device_type)(live_tensors(device_type)) + _bucket_bytes(device_type)


def _bucket_bytes(device_type: str) -> int:
    """What DDP's reducers hold of gradients, by their own account (torch/csrc/distributed/c10d/logger.cpp)."""
    from torch.nn.parallel import DistributedDataParallel

    found = [thing for thing in gc.get_objects() if type(thing) is DistributedDataParallel]
    total = 0
    for wrapped in found:
        told = wrapped._get_ddp_logging_data()
        sizes = told.get("rebuilt_bucket_sizes") or told.get("bucket_sizes") or ""
        here = next(wrapped.parameters()).device.type == device_type and not told.get("gradient_as_bucket_view")
        total += sum(int(size) for size in sizes.split(",") if size.strip()) if here else 0
    return total


def live_tensors(device_type: str) -> list[Any]:
    """Every tensor Python can reach on this kind of device, and the gradients of those (which C++ alone may hold)."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor  # what tracing leaves has a shape and no memory

    found = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)]
    tensors = [tensor for tensor in found if not issubclass(type(tensor), FakeTensor)]
    here = [tensor for tensor in tensors if tensor.device.type == device_type]
    return [*here, *(leaf.grad for leaf in here if leaf.is_leaf and leaf.grad is not None)]


def _counter(seen: set[int], device_type: str) -> Callable[[Iterable[Any]], int]:
    """A function that adds up the storages it has not met before."""
    grain = grain_bytes(device_type)

    def count(tensors: Iterable[Any]) -> int:
        total = 0
        for tensor in tensors:
            tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor  # this rank's shard
            if tensor.device.type != device_type:
                continue
            storage = tensor.untyped_storage()
            if storage.data_ptr() in seen:
                continue
            seen.add(storage.data_ptr())
            total += -(-storage.nbytes() // grain) * grain
        return total

    return count


def _quantization_tensors(holder: Any) -> list[Any]:
    """What bitsandbytes keeps beside quantised weights.

    4-bit: the parameter's ``quant_state`` (absmax, code, offset and the nested second level). 8-bit: the row scales
    ``SCB``, on the parameter until the first forward pass and in the module's ``state`` after it.
    """
    state = getattr(holder, "quant_state", None)
    scales = (getattr(holder, "SCB", None), getattr(getattr(holder, "state", None), "SCB", None))
    return [*_tensors(vars(state) if state is not None else {}), *_tensors(scales)]


def _tensors(value: Any) -> list[Any]:
    """Every tensor inside a value of dicts, lists, bitsandbytes states and tensors."""
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    if type(value).__name__ == "QuantState":
        return _tensors(vars(value))
    return []
