"""A sweep's plans run one after the other: what is finished is left out, one that fails does not hold up the rest."""

import argparse
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from vramplan.executor.evidence import REPORT
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.cli.render import tell
from vramplan.planner.errors import CorruptPlanError, ExitCode, PlanFormatError, VramplanError
from vramplan.planner.sweep import SWEEP_FILE, SWEEP_FORMAT, Sweep


def is_sweep(path: Path) -> bool:
    """Whether a file names several plans."""
    return path.name == SWEEP_FILE


def read_sweep(path: Path) -> tuple[Path, ...]:
    """The plans of a sweep.

    Raises:
        CorruptPlanError: it cannot be read, is no sweep, or names a plan outside its folder.
        PlanFormatError: it was written in another format.
    """
    try:
        sweep = Sweep.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        raise CorruptPlanError(f"{path} is no sweep", remedy="write it again: vramplan plan --sweep") from error
    if sweep.sweep_format != SWEEP_FORMAT:
        raise PlanFormatError(f"{path} has format {sweep.sweep_format}", remedy="write it again: vramplan plan --sweep")
    folder = path.parent.resolve()
    plans = tuple(path.parent / name for name in sweep.plans)
    for plan in plans:
        if not plan.resolve().is_relative_to(folder):
            raise CorruptPlanError(f"{path} names {plan}, outside its folder", remedy="write it again")
    return plans


def run_queue(args: argparse.Namespace, run: Callable[[argparse.Namespace], ExitCode]) -> ExitCode:
    """Run every plan of a sweep that has not finished; the exit code is the first failure's.

    Args:
        run: runs one plan, ``args.plan``.
    """
    plans, code = read_sweep(args.plan), ExitCode.OK
    for number, plan in enumerate(plans, start=1):
        if _is_finished(plan):
            tell(f"{number} of {len(plans)}: {plan} is finished")
            continue
        tell(f"{number} of {len(plans)}: {plan}")
        try:
            ended = run(argparse.Namespace(**vars(args) | {"plan": plan}))
        except VramplanError as error:
            tell(f"error: {error.message}", *([f"  {error.remedy}"] if error.remedy else []))
            ended = error.exit_code
        if ended is ExitCode.INTERRUPTED:
            return ended
        code = code or ended
    return code


def _is_finished(plan: Path) -> bool:
    report = plan.parent / REPORT
    if not report.exists():
        return False
    try:
        found = read_report(report)
        return found.status == "done" and found.plan_fingerprint == read_plan(plan).fingerprint
    except VramplanError:
        return False
