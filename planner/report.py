"""RunReport: what really happened, keyed by the plan's fingerprint. Read back by ``explain`` and calibration."""

from datetime import datetime
from typing import Literal

from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.values import Value


class MeasuredPhase(Value):
    """Bytes measured in one phase; None is not measured."""

    name: PhaseName
    allocated_bytes: int | None = None
    """Peak of live tensor bytes (CUDA: max_memory_allocated; CPU: profiler memory events over the static bytes)."""
    reserved_bytes: int | None = None
    tracked_bytes: int | None = None
    """The same peak by the dispatch-mode tracker that also makes memory programs; shown beside, never instead."""


class RunReport(Value):
    """The evidence a run leaves."""

    plan_fingerprint: str
    status: Literal["done", "failed", "interrupted"]
    started_at: datetime
    ended_at: datetime
    environment: dict[str, str]
    packages: dict[str, str]
    measured_by: str
    """How the bytes were obtained, in words."""
    measured_shape: dict[str, int] | None = None
    """The measured step's real batch: micro_batch_size, sequence_length, valid_labels, padding_tokens (of one micro
    batch) and gradient_accumulation_steps. Bytes compare with the plan only where these agree with it."""
    static: dict[Component, int]
    """Static bytes counted on the live modules: weights, adapter, gradients, optimizer ..."""
    phases: tuple[MeasuredPhase, ...]
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    process_bytes: int | None = None
    steps: int
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    tokens_per_second: float | None = None
    seconds: float
    output_dir: str
    saved_bytes: int | None = None
    failure: str | None = None
