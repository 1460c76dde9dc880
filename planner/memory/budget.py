"""MemoryBudget: what a setup costs, phase by phase, line by line. Lines of a phase sum to its total."""

from typing import Literal

from vramplan.planner.values import Value

PhaseName = Literal["load", "forward", "loss", "backward", "optimizer_step", "evaluation", "save", "resume", "merge"]
Component = Literal[
    "weights",
    "quantization_state",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "loss",
    "temporaries",
    "buffers",
    "batch",
    "gathered",
    "communication",
    "context",
    "workspace",
    "fragmentation",
    "nccl",
]
"""``gathered``: parameters that are whole while they are used, and the buffers they are gathered in. ``communication``:
buffers of whole gradients. ``nccl``: the communicators' own. All three of several GPUs alone."""
STATIC_COMPONENTS: tuple[Component, ...] = (
    "weights",
    "quantization_state",
    "adapter",
    "gradients",
    "optimizer",
    "buffers",
)


class BudgetLine(Value):
    """One component's bytes at the peak of one phase.

    ``estimate_bytes`` is what we expect, ``high_bytes`` the most we would bet on; the gap is measured error or a
    named unknown, never a fudge factor. ``bytes_per_param`` divides by the model's logical base parameters.
    """

    component: Component
    estimate_bytes: int
    high_bytes: int
    bytes_per_param: float
    because: str
    source: str | None = None
    """The evidence for the number, or for the gap between estimate and high."""


class PhaseBudget(Value):
    """One phase of a run and the tensors alive at its peak."""

    name: PhaseName
    allocated_bytes: int
    lines: tuple[BudgetLine, ...]


class LiveTensor(Value):
    """A tensor (or several of one shape) alive at the peak, for people who ask why."""

    label: str
    """Module path and operation, e.g. ``layers.mlp.down_proj aten.mm``."""
    shape: str
    """Symbolic, e.g. ``(B*S, ff) bf16``."""
    count: int
    total_bytes: int
    component: Component


class MemoryBudget(Value):
    """What a setup costs on one device. Allocated: torch tensors, 512-byte rounded. Reserved: the caching
    allocator's segments. Process: reserved + CUDA context + workspaces, what nvidia-smi shows. Never compared."""

    phases: tuple[PhaseBudget, ...]
    peak_phase: PhaseName
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    high_reserved_bytes: int
    process_bytes: int
    high_process_bytes: int
    process_lines: tuple[BudgetLine, ...]
    """context, workspace, fragmentation: what is added to the allocated peak to make the process figure."""
    steady_allocated_bytes: int
    """At the end of a step, as that loop leaves it."""
    held: tuple[BudgetLine, ...]
    """What is still allocated then."""
    peak_tensors: tuple[LiveTensor, ...] = ()
    """Alive at the highest point of forward and backward, static tensors apart."""
