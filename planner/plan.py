"""Plan: a frozen choice. Drift: how the world differs from it. RunReport: what happened (planner/report.py)."""

from datetime import datetime
from typing import Literal

from vramplan.planner.candidate import ProgramProvenance, Verdict
from vramplan.planner.device import Device
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.model_spec import Provenance
from vramplan.planner.training_setup import TrainingRecipe, TrainingSetup
from vramplan.planner.values import Value
from vramplan.planner.workload import Workload

PLAN_FORMAT = 1


class PlannedModel(Value):
    """The model as the plan pins it."""

    repo_id: str
    revision: str | None
    path: str | None
    """Local folder, when the model was given as one."""
    model_type: str
    architecture: str
    config_sha256: str
    """Of the canonical JSON of config.json as read."""
    total_params: int
    trainable_params: int
    provenance: Provenance


class PlannedData(Value):
    """The dataset as the plan pins it."""

    path: str
    sha256: str
    size_bytes: int
    labels: tuple[str, ...] = ()
    """The classes of a classifier's rows, by id."""


class Stage(Value):
    """What a plan goes on with: trained on the merged result of the stage before, on the same data and device."""

    workload: Workload
    setup: TrainingSetup
    recipe: TrainingRecipe
    trainable_params: int
    budget: MemoryBudget
    verdict: Verdict | None
    program: ProgramProvenance


class Plan(Value):
    """Everything a run needs, and nothing that can execute."""

    plan_format: int = PLAN_FORMAT
    tool_version: str
    created_at: datetime
    model: PlannedModel
    device: Device | None
    workload: Workload
    setup: TrainingSetup
    recipe: TrainingRecipe
    data: PlannedData | None
    budget: MemoryBudget
    verdict: Verdict | None
    program: ProgramProvenance
    later_stages: tuple[Stage, ...] = ()
    """What follows the plan's own setup, each on the merged result of the one before."""
    packages: dict[str, str]
    """Versions the budget was made for."""
    fingerprint: str
    """sha256 of canonical JSON without readings (free_bytes, read_at ...) and tool version."""


class Drift(Value):
    """One difference between the plan and the world."""

    what: str
    planned: str
    found: str
    severity: Literal["blocks", "warns"]
    remedy: str
