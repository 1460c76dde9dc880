"""Candidate: a setup, priced."""

from typing import Any, Literal

from vramplan.planner.cluster import Ranks
from vramplan.planner.device import Device
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.throughput.values import StepTime
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.values import Value
from vramplan.planner.workload import Workload

Verdict = Literal["fits", "tight", "no"]
OptionOrigin = Literal["given", "default", "derived"]


class ResolvedOption(Value):
    """One option as it was understood, and where it came from."""

    name: str
    value: Any
    origin: OptionOrigin
    flag: str
    """The command-line flag that changes it."""
    because: str | None = None


class ProgramProvenance(Value):
    """Which memory program answered, and what it was traced with."""

    key: str
    """Content hash of the program."""
    origin: Literal["shipped", "cached", "traced"]
    versions: dict[str, str]
    """Libraries it was traced with."""
    basis: str
    """How well the answer is supported, in words."""


class Candidate(Value):
    """One setup on one model and device, with its price and verdict."""

    model: str
    total_params: int
    trainable_params: int
    setup: TrainingSetup
    workload: Workload
    device: Device | None
    budget: MemoryBudget
    verdict: Verdict | None
    """None without a device, or where its kernels are unknown."""
    verdict_reason: str
    available_bytes: int | None
    headroom_bytes: int | None
    """available - high process bytes."""
    runnable: bool
    not_runnable_because: str | None = None
    warnings: tuple[str, ...] = ()
    provenance: ProgramProvenance
    ranks: Ranks | None = None
    """Of a run on several GPUs; the budget is then one rank's."""
    time: StepTime | None = None
    """How long an optimizer step takes; None where the device's rates are not known."""
    time_unknown_because: str | None = None
