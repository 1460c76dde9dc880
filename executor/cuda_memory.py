"""What PyTorch's allocator holds on the GPU, in one call.

``torch.cuda.memory_allocated`` and its like each collect all statistics and flatten and sort them by name: a quarter of
a millisecond here, several of them a step. The statistics as they are collected have the same numbers.
"""

from typing import NamedTuple


class CudaMemory(NamedTuple):
    """Bytes now, and the most since the peaks were last reset."""

    allocated_bytes: int
    reserved_bytes: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int


def read_cuda() -> CudaMemory:
    """A reading of the current device; all zero before anything was allocated."""
    import torch

    found = torch.cuda.memory_stats_as_nested_dict()
    allocated, reserved = (found.get(name, {}).get("all", {}) for name in ("allocated_bytes", "reserved_bytes"))
    return CudaMemory(
        allocated.get("current", 0), reserved.get("current", 0), allocated.get("peak", 0), reserved.get("peak", 0)
    )
