"""What a person has chosen so far. The screens show it; only the app replaces it."""

from typing import Any, Literal

from pydantic import Field

from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.objectives import Complexity
from vramplan.planner.plan import Plan
from vramplan.planner.throughput.values import RunCost
from vramplan.planner.training_setup import Attention, Loss, Offload, Optimizer, Sharding, TrainingRecipe
from vramplan.planner.units import parse_bytes
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
    prefer: str | None = None
    """Priorities, the first named first, with commas between them."""
    complexity: Complexity | None = None
    num_tasks: int | None = None
    keep_knowledge: bool | None = None
    must_merge: bool | None = None
    latency_budget: float | None = None
    reserve: str | None = None
    host_memory: str | None = None
    interconnect: str | None = None
    more: dict[str, str | bool] = Field(default_factory=dict)
    """Every other option of the command line, as it is typed there."""

    def value(self, name: str) -> Any:
        """What was set for an option; None: nothing was."""
        return getattr(self, name) if name in Knobs.model_fields else self.more.get(name)

    def setting(self, name: str, value: Any) -> "Knobs":
        """With one option set, or with None put back to its default."""
        if name in Knobs.model_fields:
            return self.model_copy(update={name: value})
        others = {other: kept for other, kept in self.more.items() if other != name}
        return self.model_copy(update={"more": others if value is None else {**others, name: value}})

    def for_method(self, method: str) -> "Knobs":
        """The same wishes for another method: what it knows nothing of is left behind."""
        from vramplan.planner.resolve import given_for_method

        knobs, setup = self, self.setup
        for name in setup.keys() - given_for_method(setup, method).keys():
            knobs = knobs.setting(name, None)
        return knobs.setting("method", method)

    @property
    def setup(self) -> dict[str, Any]:
        """What of it decides a setup, by name, as the command line reads it."""
        own = self.model_dump(exclude_none=True, exclude={*MATTERS, *AROUND, "more"})
        if not self.more:
            return own
        from vramplan.planner.cli.options import RECIPE, SETUP

        read = {option.name: option.read for option in (*SETUP, *RECIPE)}
        return own | {
            name: text if isinstance(text, bool) else (read[name] or str)(text) for name, text in self.more.items()
        }

    @property
    def matters(self) -> dict[str, Any]:
        """What of it only ranks setups, by name."""
        return self.model_dump(exclude_none=True, include=set(MATTERS))


MATTERS = ("prefer", "complexity", "num_tasks", "keep_knowledge", "must_merge", "latency_budget")
"""Knobs that say what matters to a person: they rank setups and decide none."""
AROUND = ("reserve", "host_memory", "interconnect")
"""Knobs of the machine around a device."""


class Choice(Value):
    """A model, a device and the knobs."""

    model: ModelSpec | None = None
    device: Device | None = None
    knobs: Knobs = Knobs()

    @property
    def target(self) -> Device | None:
        """The device, with what shall be kept back of its memory."""
        if self.device is None or self.knobs.reserve is None:
            return self.device
        return self.device.model_copy(update={"reserve_bytes": parse_bytes(self.knobs.reserve)})


class Priced(Value):
    """A choice with every option resolved and its price."""

    candidate: Candidate
    recipe: TrainingRecipe
    path: str
    """Where its plan would be written."""
    cost: RunCost = RunCost()
    options: dict[str, Any] = Field(default_factory=dict)
    """Every option as it was understood, by name."""
    stages: tuple[str, ...] = ()
    """Of several, each in a line; the price is of the one that takes most."""


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
    tried_first: bool = True
    """Whether a few of its steps are tried before the run, where none were yet."""


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
