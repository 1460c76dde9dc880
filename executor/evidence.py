"""What a run leaves: evidence gathered as it happens, so that a failed run's report still holds what was seen."""

import os
import platform
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from vramplan.executor.packages import installed_packages
from vramplan.executor.phases import Peak
from vramplan.executor.sensors import Sensors
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.plan import Plan
from vramplan.planner.report import MeasuredPhase, MeasuredRank, RungTaken, RunReport

REPORT = "report.json"
VERIFICATION = "verify.json"
"""The report of a verification, beside the plan."""
LOSSES_REPORTED = 200


@dataclass
class Evidence:
    """Facts about one run, filled in by whoever learns them."""

    plan: Plan
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    begun: float = field(default_factory=time.monotonic)
    environment: dict[str, str] = field(default_factory=dict)
    measured_by: str = "nothing was measured"
    measured_shape: dict[str, int] | None = None
    static: dict[Component, int] = field(default_factory=dict)
    peaks: dict[PhaseName, Peak] = field(default_factory=dict)
    process_bytes: int | None = None
    outside_bytes: int | None = None
    sensors: Sensors = field(default_factory=Sensors)
    used_before_bytes: int | None = None
    """Of the device, by whatever process, before this one made its context."""
    phase: PhaseName | None = None
    """Where the run is now."""
    steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    tokens_per_second: float | None = None
    paused_seconds: float = 0.0
    """By this process, as somebody asked."""
    saved_bytes: int | None = None
    goal: Literal["run", "verify"] = "run"
    ladder: tuple[RungTaken, ...] = ()
    resumed_from_step: int | None = None
    losses: list[tuple[int, float]] = field(default_factory=list)
    checkpoint_bytes: int | None = None
    checkpoint_seconds: float | None = None
    ranks: tuple[MeasuredRank, ...] = ()
    """Of several processes, what each has measured."""
    earlier: RunReport | None = None
    """What the processes before this one saw, up to the checkpoint this one goes on from."""

    def continue_from(self, earlier: RunReport, step: int) -> None:
        """Go on telling the story of the run that left this checkpoint.

        Bytes measured by it hold for this process too, unless the ladder has changed the setup since.
        """
        self.earlier, self.resumed_from_step, self.steps = earlier, step, step
        self.started_at = earlier.started_at
        self.first_loss, self.last_loss = earlier.first_loss, earlier.last_loss
        self.eval_loss_before = earlier.eval_loss_before
        self.losses = list(earlier.losses)
        self.ladder = self.ladder or earlier.ladder
        if self.same_setup:
            self.static, self.measured_shape, self.ranks = dict(earlier.static), earlier.measured_shape, earlier.ranks

    @property
    def same_setup(self) -> bool:
        """An earlier process measured the very setup this one runs."""
        return self.earlier is not None and self.earlier.setup == self.plan.setup and bool(self.earlier.phases)

    def watch(self, sensors: Sensors) -> None:
        """Read these from now on; called before this process has a context on the device."""
        self.sensors, self.used_before_bytes = sensors, sensors.used_bytes()

    def see_outside(self, reserved_bytes: int) -> None:
        """What the device holds of this process beyond the allocator's segments, now."""
        used = self.sensors.used_bytes()
        if used is not None and self.used_before_bytes is not None:
            outside = max(0, used - self.used_before_bytes - reserved_bytes)
            self.outside_bytes = max(outside, self.outside_bytes or 0)

    @property
    def energy_joules(self) -> float | None:
        """Of this process, of those beside it once they have told, and of those before."""
        now, before = self.sensors.energy_joules(), self.earlier.energy_joules if self.earlier else None
        others = [each.energy_joules for each in self.ranks if each.rank and each.energy_joules is not None]
        now = None if now is None else now + sum(others)
        return before if now is None else now + (before or 0.0)

    def add_loss(self, step: int, loss: float) -> None:
        """A logged training loss."""
        self.first_loss = loss if self.first_loss is None else self.first_loss
        self.last_loss = loss
        self.losses.append((step, loss))

    def enter(self, phase: PhaseName) -> None:
        """The run is in this phase now."""
        self.phase = phase

    def of_rank(self, rank: int) -> MeasuredRank:
        """What this process has measured of itself, for the first to report."""
        phases = self._phases()
        return MeasuredRank(
            rank=rank,
            measured_shape=self.measured_shape,
            static=self.static,
            phases=phases,
            peak_allocated_bytes=_highest(phase.allocated_bytes for phase in phases),
            peak_reserved_bytes=_highest(phase.reserved_bytes for phase in phases),
            process_bytes=self.process_bytes,
            energy_joules=self.sensors.energy_joules(),
        )

    def report(self, status: Literal["done", "failed", "interrupted"], failure: str | None = None) -> RunReport:
        """The evidence so far as a RunReport."""
        phases = self._phases()
        return RunReport(
            plan_fingerprint=self.plan.fingerprint,
            goal=self.goal,
            status=status,
            started_at=self.started_at,
            ended_at=max(self.started_at, datetime.now(UTC)),  # a clock may be set back
            environment={"python": platform.python_version(), "platform": platform.platform(), **self.environment},
            packages=installed_packages(),
            measured_by=self.measured_by,
            measured_shape=self.measured_shape,
            static=self.static,
            phases=phases,
            peak_allocated_bytes=_highest(phase.allocated_bytes for phase in phases),
            peak_reserved_bytes=_highest(phase.reserved_bytes for phase in phases),
            process_bytes=self.process_bytes,
            outside_bytes=self.outside_bytes,
            energy_joules=self.energy_joules,
            steps=self.steps,
            first_loss=self.first_loss,
            last_loss=self.last_loss,
            eval_loss_before=self.eval_loss_before,
            eval_loss_after=self.eval_loss_after,
            tokens_per_second=self.tokens_per_second,
            seconds=time.monotonic() - self.begun - self.paused_seconds + (self.earlier.seconds if self.earlier else 0),
            paused_seconds=self.paused_seconds + (self.earlier.paused_seconds if self.earlier else 0.0),
            output_dir=self.plan.recipe.output_dir,
            saved_bytes=self.saved_bytes,
            failure=failure,
            setup=self.plan.setup,
            ladder=self.ladder,
            resumed_from_step=self.resumed_from_step,
            losses=thinned(self.losses),
            checkpoint_bytes=self.checkpoint_bytes,
            checkpoint_seconds=self.checkpoint_seconds,
            ranks=self.ranks,
        )

    def _phases(self) -> tuple[MeasuredPhase, ...]:
        """The peaks of this process, and of the earlier ones where they ran the same setup."""
        earlier = {phase.name: phase for phase in self.earlier.phases} if self.earlier and self.same_setup else {}
        planned = {} if self.ladder else {phase.name: phase for phase in self.plan.budget.phases}
        phases = []
        for name in dict.fromkeys((*earlier, *self.peaks)):
            before, now = earlier.get(name, MeasuredPhase(name=name)), self.peaks.get(name, Peak())
            phases.append(
                MeasuredPhase(
                    name=name,
                    allocated_bytes=_highest((before.allocated_bytes, now.allocated_bytes)),
                    reserved_bytes=_highest((before.reserved_bytes, now.reserved_bytes)),
                    tracked_bytes=_highest((before.tracked_bytes, now.tracked_bytes)),
                    estimate_bytes=planned[name].allocated_bytes if name in planned else None,
                    high_bytes=sum(line.high_bytes for line in planned[name].lines) if name in planned else None,
                )
            )
        return tuple(phases)


def thinned(losses: list[tuple[int, float]], most: int = LOSSES_REPORTED) -> tuple[tuple[int, float], ...]:
    """Evenly chosen points of a loss curve, the last one among them.

    >>> thinned([(step, 0.5) for step in range(1, 6)], 3)
    ((1, 0.5), (3, 0.5), (5, 0.5))
    """
    stride = max(1, -(-(len(losses) - 1) // max(1, most - 1)))
    return (*losses[:-1:stride], *losses[-1:])


def write_report(report: RunReport, run_folder: Path, name: str = REPORT) -> Path:
    """Write a report into the run folder: to a temporary file, then renamed, so there is never half a report."""
    path = run_folder / name
    temporary = path.with_suffix(".json.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(report.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
