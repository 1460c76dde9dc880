"""A passed verification, and what it holds for: this plan, on this product, with these library versions."""

from collections.abc import Mapping
from pathlib import Path

from vramplan.executor.evidence import VERIFICATION
from vramplan.planner.adapters.plan_files import read_report
from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport


def passed_verification(
    plan: Plan, run_folder: Path, device: Device | None, packages: Mapping[str, str]
) -> RunReport | None:
    """The report of the verification that lets this plan run here; None when there is none."""
    report = read_verification(run_folder)
    if report is None or device is None:
        return None
    same_plan = report.plan_fingerprint == plan.fingerprint and report.setup == plan.setup
    return report if report.status == "done" and same_plan and _same_place(report, device, packages) else None


def read_verification(run_folder: Path) -> RunReport | None:
    """The report of the last verification; None when there is none, or it cannot be read."""
    try:
        return read_report(run_folder / VERIFICATION)
    except UsageError:
        return None


def _same_place(report: RunReport, device: Device, packages: Mapping[str, str]) -> bool:
    """The same product and the same versions; ``gpu`` is absent from the report of a CPU."""
    found = report.environment.get("gpu")
    same_device = found is None if device.kind == "cpu" else found == device.name
    return same_device and all(report.packages.get(name) == version for name, version in packages.items())
