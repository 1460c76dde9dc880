"""The runs of this machine, as their folders tell: what was planned, what came of it, what can be gone on with."""

import json
from datetime import datetime
from pathlib import Path
from typing import Literal

from vramplan.executor.checkpoints import folders, read_seal
from vramplan.executor.evidence import REPORT, VERIFICATION
from vramplan.executor.launcher import EVENTS
from vramplan.executor.lock import LOCK, run_lock
from vramplan.planner.adapters.plan_files import STAGE, read_plan, read_report
from vramplan.planner.errors import PreflightError, UsageError, VramplanError
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.values import Value

RUNS = Path("runs")
LAST_BYTES = 4096
"""Of the events: the last one is shorter."""
Status = Literal["planned", "verified", "running", "paused", "done", "failed", "interrupted", "killed"]


class PastRun(Value):
    """One run folder."""

    folder: str
    plan: Plan
    status: Status
    """``killed``: it began, and neither runs nor left a report."""
    report: RunReport | None = None
    verification: RunReport | None = None
    checkpoint_step: int | None = None
    """The furthest sealed checkpoint of this plan; its files have not been looked at."""

    @property
    def when(self) -> datetime:
        """When it last began, or was planned."""
        told = self.report or self.verification
        return told.started_at if told is not None else self.plan.created_at


def find_runs(parent: Path = RUNS) -> tuple[tuple[PastRun, ...], tuple[str, ...]]:
    """Every run folder under ``parent``, the latest first, and why others could not be read."""
    found, unreadable = [], []
    for path in sorted((*parent.glob("*/plan.json"), *parent.glob(f"*/{STAGE}*/plan.json"))):
        try:
            found.append(read_run(path.parent))
        except VramplanError as error:
            unreadable.append(error.message)
    return tuple(sorted(found, key=lambda run: run.when, reverse=True)), tuple(unreadable)


def read_run(folder: Path) -> PastRun:
    """One run folder.

    Raises:
        UsageError: there is no plan in it.
        PlanError: its plan cannot be trusted.
    """
    plan = read_plan(folder / "plan.json")
    report, verification = report_of(folder / REPORT, plan), report_of(folder / VERIFICATION, plan)
    return PastRun(
        folder=str(folder),
        plan=plan,
        status=_status(folder, report, verification),
        report=report,
        verification=verification,
        checkpoint_step=_checkpoint_step(plan),
    )


def run_name(folder: Path) -> str:
    """What a run is called: its folder, and of a later stage the run's it is part of.

    >>> run_name(Path("runs/llama-lora")), run_name(Path("runs/llama-two-stage/stage-2"))
    ('llama-lora', 'llama-two-stage/stage-2')
    """
    folder = folder.resolve()
    return f"{folder.parent.name}/{folder.name}" if folder.name.startswith(STAGE) else folder.name


def named_run(text: str, parent: Path = RUNS) -> PastRun:
    """A run by its folder, by its plan file, or by its name under ``parent``.

    Raises:
        UsageError: there is no such run.
        PlanError: its plan cannot be trusted.
    """
    for folder in (Path(text), Path(text).parent if text.endswith(".json") else parent / text):
        if (folder / "plan.json").is_file():
            return read_run(folder)
    raise UsageError(f"no run at {text}", remedy="see what there is: vramplan runs")


def report_of(path: Path, plan: Plan) -> RunReport | None:
    """The report at a path; None where there is none, or another plan's."""
    try:
        report = read_report(path)
    except UsageError:
        return None
    return report if report.plan_fingerprint == plan.fingerprint else None


def _status(folder: Path, report: RunReport | None, verification: RunReport | None) -> Status:
    if (folder / LOCK).exists():
        try:
            with run_lock(folder):
                pass
        except PreflightError:
            return "paused" if _waits(folder) else "running"
    if report is not None:
        return report.status
    if verification is not None and verification.status == "done":
        return "verified"
    return "killed" if (folder / EVENTS).exists() else "planned"


def _waits(folder: Path) -> bool:
    """Whether the last thing a run said is that it waits."""
    try:
        with (folder / EVENTS).open("rb") as events:
            events.seek(max(0, (folder / EVENTS).stat().st_size - LAST_BYTES))
            lines = events.read().splitlines()
        return bool(lines) and json.loads(lines[-1]).get("event") == "paused"
    except (OSError, ValueError, AttributeError):  # not there yet, or a line half written
        return False


def _checkpoint_step(plan: Plan) -> int | None:
    for folder in folders(Path(plan.recipe.output_dir)):
        try:
            seal = read_seal(folder)
        except VramplanError:
            continue
        if seal.plan_fingerprint == plan.fingerprint:
            return seal.step
    return None
