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
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.plan import Plan
from vramplan.planner.report import MeasuredPhase, RunReport

REPORT = "report.json"


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
    phase: PhaseName | None = None
    """Where the run is now."""
    steps: int = 0
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss_before: float | None = None
    eval_loss_after: float | None = None
    tokens_per_second: float | None = None
    saved_bytes: int | None = None

    def enter(self, phase: PhaseName) -> None:
        """The run is in this phase now."""
        self.phase = phase

    def report(self, status: Literal["done", "failed", "interrupted"], failure: str | None = None) -> RunReport:
        """The evidence so far as a RunReport."""
        phases = tuple(
            MeasuredPhase(
                name=name,
                allocated_bytes=peak.allocated_bytes,
                reserved_bytes=peak.reserved_bytes,
                tracked_bytes=peak.tracked_bytes,
            )
            for name, peak in self.peaks.items()
        )
        return RunReport(
            plan_fingerprint=self.plan.fingerprint,
            status=status,
            started_at=self.started_at,
            ended_at=datetime.now(UTC),
            environment={"python": platform.python_version(), "platform": platform.platform(), **self.environment},
            packages=installed_packages(),
            measured_by=self.measured_by,
            measured_shape=self.measured_shape,
            static=self.static,
            phases=phases,
            peak_allocated_bytes=_highest(phase.allocated_bytes for phase in phases),
            peak_reserved_bytes=_highest(phase.reserved_bytes for phase in phases),
            process_bytes=self.process_bytes,
            steps=self.steps,
            first_loss=self.first_loss,
            last_loss=self.last_loss,
            eval_loss_before=self.eval_loss_before,
            eval_loss_after=self.eval_loss_after,
            tokens_per_second=self.tokens_per_second,
            seconds=time.monotonic() - self.begun,
            output_dir=self.plan.recipe.output_dir,
            saved_bytes=self.saved_bytes,
            failure=failure,
        )


def write_report(report: RunReport, run_folder: Path) -> Path:
    """Write report.json into the run folder: to a temporary file, then renamed, so there is never half a report."""
    path = run_folder / REPORT
    temporary = path.with_suffix(".json.tmp")
    with temporary.open("w", encoding="utf-8") as file:
        file.write(report.model_dump_json(indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return path


def _highest(values: Iterable[int | None]) -> int | None:
    return max((value for value in values if value is not None), default=None)
