"""``vramplan run PLAN``: preflight, verification, the run with its progress, and what happened beside the plan."""

import argparse
from typing import Any

from vramplan.executor.evidence import REPORT
from vramplan.executor.here import device_here
from vramplan.executor.launcher import Run
from vramplan.executor.options import add_shared_options, agreed, attempt_of, check
from vramplan.executor.packages import installed_packages
from vramplan.executor.queue import is_sweep, run_queue
from vramplan.executor.runs import report_of
from vramplan.executor.stages import run_stages
from vramplan.executor.verification import passed_verification
from vramplan.executor.watch import watch
from vramplan.planner.adapters.calibration_files import find_figures
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.cli.main import run_command
from vramplan.planner.cli.render import show_json, tell
from vramplan.planner.errors import ExitCode

__all__ = ["add_parser", "check", "run"]


def add_parser(subparsers: Any) -> None:
    """Add ``run`` to the command line."""
    parser = subparsers.add_parser("run", help="run a plan, supervised")
    add_shared_options(parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--resume", action="store_true", help="go on from the newest complete checkpoint")
    where.add_argument("--start-over", action="store_true", help="remove the checkpoints of earlier runs of this plan")
    parser.add_argument(
        "--no-verify", action="store_true", help="start without the few verifying steps; a tight plan needs them"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Check, verify, train, and set the report beside the plan.

    Raises:
        PlanError: the plan file cannot be trusted.
        PreflightError: checkpoints of an earlier run are in the way.
        RunError: there is nothing to resume from.
    """
    if is_sweep(args.plan):
        return run_queue(args, run)
    plan = read_plan(args.plan)
    if plan.later_stages:
        return run_stages(args, plan, run_plan)
    code, told = run_plan(args)
    if args.json:
        show_json(told)
    return code


def run_plan(args: argparse.Namespace) -> tuple[ExitCode, dict[str, Any]]:
    """Run one plan's own setup; the exit code, and what ``--json`` prints of it. Raises what ``run`` does."""
    plan = read_plan(args.plan)
    report = report_of(args.plan.parent / REPORT, plan) if args.resume else None
    if report is not None and report.status == "done":
        tell(f"{args.plan} is finished: there is nothing to go on with; --start-over runs it again")
        return ExitCode.OK, {"preflight": None, "report": report.model_dump(mode="json")}
    device = device_here(plan)
    verified = passed_verification(plan, args.plan.parent, device, installed_packages())
    verifies = not (args.no_verify or args.resume or verified)
    checked = check(
        plan, args.plan, device, allow=args.allow_drift, verifies=verifies, resumes=args.resume or args.start_over
    )
    if not agreed(checked, yes=args.yes):
        return ExitCode.REFUSED, {"preflight": checked.model_dump(mode="json"), "report": None}
    if verified is not None and not args.no_verify and not args.resume:
        tell(f"verified on {verified.ended_at:%Y-%m-%d %H:%M} UTC, so the run starts at once")
    started = Run(
        args.plan,
        device=device,
        attempt=attempt_of(args),
        verify=verifies,
        resume=args.resume,
        start_over=args.start_over,
    )
    code = watch(started)
    report_path = args.plan.parent / REPORT
    report = read_report(report_path) if report_path.exists() else None
    dumped = report.model_dump(mode="json") if report is not None else None
    if code is ExitCode.OK and not args.json:
        if (known := find_figures(device).num_plans) > 0:
            tell(f"plans run on such a device here: {known}; what they taught: vramplan calibrate --show")
        run_command(["explain", str(args.plan), str(report_path)])
    return code, {"preflight": checked.model_dump(mode="json"), "report": dumped}
