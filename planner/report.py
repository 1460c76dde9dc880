"""RunReport: what really happened, keyed by the plan's fingerprint. Read back by ``explain`` and calibration."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.values import Value


class MeasuredPhase(Value):
    """Bytes measured in one phase; None is not measured."""

    name: PhaseName
    allocated_bytes: int | None = None
    """Peak of live tensor bytes (CUDA: max_memory_allocated; CPU: profiler memory events over the static bytes)."""
    reserved_bytes: int | None = None
    tracked_bytes: int | None = None
    """The same peak by the dispatch-mode tracker that also makes memory programs; shown beside, never instead."""
    estimate_bytes: int | None = None
    """The plan's own figure for ``allocated_bytes``; None where a rung of the ladder changed the setup since."""
    high_bytes: int | None = None


class RungTaken(Value):
    """One step down the ladder after the run was out of memory: what was changed so that it could go on."""

    change: str
    """In words: ``micro batch 8 -> 4, accumulation 2 -> 4``."""
    phase: PhaseName | None = None
    """Where memory ran out; None when the host killed the process."""
    step: int = 0
    """Optimizer steps done by then."""
    message: str = ""
    """What the allocator said."""
    allocator: dict[str, int] = Field(default_factory=dict)
    """The allocator's own figures at that moment, in bytes; empty on a CPU."""
    process_bytes: int | None = None
    """The planner's price of the setup that was taken; None where nobody could price it."""
    high_process_bytes: int | None = None


class MeasuredRank(Value):
    """What one of several processes measured of itself; None is not measured."""

    rank: int
    measured_shape: dict[str, int] | None = None
    static: dict[Component, int] = Field(default_factory=dict)
    phases: tuple[MeasuredPhase, ...] = ()
    peak_allocated_bytes: int | None = None
    peak_reserved_bytes: int | None = None
    process_bytes: int | None = None
    energy_joules: float | None = None


class RunReport(Value):
    """The evidence a run leaves."""

    plan_fingerprint: str
    goal: Literal["run", "verify"] = "run"
    """``verify``: the few steps that decide whether the run may start."""
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
    outside_bytes: int | None = None
    """Device memory in use beyond what the allocator reserved and others held before: the CUDA context with its
    kernels. None on a CPU, and where the driver does not say."""
    energy_joules: float | None = None
    """Used by the whole GPU while the run was on it, by the driver's count."""
    steps: int
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    tokens_per_second: float | None = None
    seconds: float
    paused_seconds: float = 0.0
    """Spent waiting because somebody had asked for it; no part of ``seconds``."""
    output_dir: str
    saved_bytes: int | None = None
    failure: str | None = None
    setup: TrainingSetup | None = None
    """The setup that was used; it differs from the plan's once the ladder was taken."""
    ladder: tuple[RungTaken, ...] = ()
    resumed_from_step: int | None = None
    """The step of the checkpoint it continued from; None for a run in one piece."""
    losses: tuple[tuple[int, float], ...] = ()
    """(step, loss) along the run, thinned evenly."""
    checkpoint_bytes: int | None = None
    checkpoint_seconds: float | None = None
    """What the last checkpoint took."""
    ranks: tuple[MeasuredRank, ...] = ()
    """Each process of several, the first among them: the other figures here are the first's, energy apart."""
