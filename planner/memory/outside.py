"""Device memory that is no tensor: the CUDA context, which PyTorch's allocator does not see, and cuBLAS's workspaces,
which it holds and counts as allocated.

Nothing here was measured by this project on a GPU yet, so each figure is a prior with its source and a range. Runs on a
machine move them there (planner/calibration.py).
"""

from vramplan.planner.device import Device, Route
from vramplan.planner.units import MIB
from vramplan.planner.values import Value

# 426 MiB on an RTX 6000 Ada with PyTorch 2.10 + CUDA 13 (github.com/unslothai/unsloth-zoo/pull/1053, measurement)
CONTEXT_BYTES = 426 * MIB
# kernels load lazily as they are first used; nvidia-smi minus reserved was about 700 MB (pytorch/pytorch#37250)
HIGH_CONTEXT_BYTES = 700 * MIB
CONTEXT_SOURCE = (
    "426 MiB at start on an RTX 6000 Ada (CUDA 13), to about 700 MiB once kernels are loaded; unmeasured here"
)

# cuBLAS: 4096 KiB x 2 + 16 KiB x 8 a handle; 32 MiB on Hopper and later
# (aten/src/ATen/cuda/CublasHandlePool.cpp, getChosenWorkspaceSize)
WORKSPACE_BYTES = 2 * 4096 * 1024 + 8 * 16 * 1024
HOPPER_WORKSPACE_BYTES = 32 * MIB
# a workspace for each pair of handle and stream, handles belong to threads, and the backward runs in a thread of its
# own (aten/src/ATen/cuda/CublasHandlePool.cpp; PyTorch's CUDA notes, "cuBLAS workspaces"); cuBLASLt shares them; they
# are never freed and count in memory_allocated (pytorch/pytorch#95668)
WORKSPACES = 2
WORKSPACE_SOURCE = "aten/src/ATen/cuda/CublasHandlePool.cpp: one for the forward's thread, one for the backward's"

# resident set of a worker that has imported torch, transformers, peft and trl, before a model is loaded
# (this stack on Linux, torch 2.13 CPU build)
CPU_PROCESS_BYTES = 900 * MIB
HIGH_CPU_PROCESS_BYTES = 1300 * MIB
CPU_PROCESS_SOURCE = "resident set of a worker with its libraries imported, torch 2.13 CPU build"

# of the dynamic part; no GPU of this project's has confirmed it, so benchmarks/ says how far published runs differ
UNMEASURED_DYNAMIC_FRACTION = 0.05
UNMEASURED_SOURCE = (
    "traced to the byte, never measured by this project on this GPU: 5 % of what lives inside a step is kept back"
)


class Figures(Value):
    """What is not counted: the size of the context and the workspaces, and how far a price may be off."""

    context_bytes: int = CONTEXT_BYTES
    high_context_bytes: int = HIGH_CONTEXT_BYTES
    context_source: str = CONTEXT_SOURCE
    workspace_bytes: int | None = None
    """One of cuBLAS's workspaces; None: as PyTorch's source has it for the device."""
    workspace_source: str = WORKSPACE_SOURCE
    dynamic_fraction: float = UNMEASURED_DYNAMIC_FRACTION
    """How far what lives inside a step may lie above its estimate."""
    dynamic_least_share: float = 0.0
    """That fraction is taken of at least this share of a phase: an error beside large weights is no error of theirs."""
    dynamic_source: str = UNMEASURED_SOURCE
    fragmentation_fraction: float = 0.0
    """How far segments beyond tensors may lie above their estimate, as a share of all reserved memory."""
    fragmentation_source: str = "the caching allocator replayed over a few steps"
    step_time_ratios: tuple[float, ...] = ()
    """Measured over predicted seconds of a step, of runs on such a device."""
    num_plans: int = 0
    """How many plans were run on such a device and compared."""


PRIOR = Figures()


def workspace_bytes(device: Device | None, figures: Figures = PRIOR) -> int:
    """One of cuBLAS's workspaces, taken from PyTorch's allocator at a thread's first matrix product."""
    if figures.workspace_bytes is not None:
        return figures.workspace_bytes
    capability = device.compute_capability if device is not None else None
    return HOPPER_WORKSPACE_BYTES if capability is not None and capability >= (9, 0) else WORKSPACE_BYTES


def context_bytes(route: Route, figures: Figures = PRIOR) -> tuple[int, int]:
    """What the process holds beside tensors: (estimate, high)."""
    if route == "cuda":
        return figures.context_bytes, figures.high_context_bytes
    return CPU_PROCESS_BYTES, HIGH_CPU_PROCESS_BYTES
