"""What a person has chosen so far. The screens show it; only the app replaces it."""

from typing import Any, Literal

from pydantic import Field

from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.objectives import Complexity, Priority
from vramplan.planner.plan import Plan
from vramplan.planner.throughput.values import RunCost
from vramplan.planner.training_setup import Attention, Loss, Offload, Optimizer, Sharding, TrainingRecipe
from vramplan.planner.values import Value
from vramplan.planner.workload import RowLengths, Task

MixedPrecision = Literal["no", "bf16", "fp16"]


class Knobs(Value):
    """The options a person has set; None leaves the default the command line would take."""

    method: str | None = None
    sequence_length: int | None = None
    micro_batch: int | None = None
    rank: int | None = None
    gradient_checkpointing: bool | None = None
    optimizer: Optimizer | None = None
    data: str | None = None
    alpha: int | None = None
    attention: Attention | None = None
    loss: Loss | None = None
    dtype: FloatDtype | None = None
    mixed_precision: MixedPrecision | None = None
    max_steps: int | None = None
    num_train_epochs: float | None = None
    tokens_per_step: int | None = None
    task: Task | None = None
    gpus: int | None = None
    nodes: int | None = None
    sharding: Sharding | None = None
    offload: Offload | None = None
    prefer: Priority | None = None
    complexity: Complexity | None = None
    num_tasks: int | None = None
    keep_knowledge: bool | None = None
    must_merge: bool | None = None

    @property
    def setup(self) -> dict[str, Any]:
        """What of it decides a setup, by name."""
        return self.model_dump(exclude_none=True, exclude=set(MATTERS))

    @property
    def matters(self) -> dict[str, Any]:
        """What of it only ranks setups, by name."""
        return self.model_dump(exclude_none=True, include=set(MATTERS))


MATTERS = ("prefer", "complexity", "num_tasks", "keep_knowledge", "must_merge")
"""Knobs that say what matters to a person: they rank setups and decide none."""


class Choice(Value):
    """A model, a device and the knobs."""

    model: ModelSpec | None = None
    device: Device | None = None
    knobs: Knobs = Knobs()


class Priced(Value):
    """A choice with every option resolved and its price."""

    candidate: Candidate
    recipe: TrainingRecipe
    path: str
    """Where its plan would be written."""
    cost: RunCost = RunCost()


class Compared(Value):
    """One row of the comparison: a priced setup with its reasons, or the reason a method has no price."""

    candidate: Candidate | None
    notes: tuple[str, ...]
    cost: RunCost = RunCost()
    options: dict[str, Any] = Field(default_factory=dict)
    """What makes it, by the names of the options."""


class SavedPlan(Value):
    """A plan file on disk."""

    path: str
    plan: Plan


class MeasuredRows(Value):
    """A training file, read and counted."""

    path: str
    num_rows: int
    lengths: RowLengths | None
    """None: nobody could measure them."""
    lines: tuple[str, ...]
    """What the command line says of it."""


class Entry(Value):
    """A file or a folder a person may choose."""

    name: str
    """Ends with a slash where it is a folder."""
    size: str
    """In words; empty for a folder."""
