"""``vramplan verify PLAN``: a few real steps, the longest rows first; the estimate beside what was measured."""

import argparse
from typing import Any

from vramplan.executor.evidence import VERIFICATION
from vramplan.executor.here import device_here
from vramplan.executor.launcher import Run
from vramplan.executor.options import add_shared_options, agreed, attempt_of, check
from vramplan.executor.verification import read_verification
from vramplan.executor.watch import watch
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.cli.main import run_command
from vramplan.planner.cli.render import show, show_json
from vramplan.planner.errors import ExitCode


def add_parser(subparsers: Any) -> None:
    """Add ``verify`` to the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="a few real steps of a plan before it is run",
        description="A few optimizer steps, the longest rows first; one evaluation step; one save, thrown away.",
    )
    add_shared_options(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Check, take the steps, and say whether the run may start: 0 as planned, 3 one rung lower, 1 not.

    Raises:
        PlanError: the plan file cannot be trusted.
    """
    plan = read_plan(args.plan)
    device = device_here(plan)
    checked = check(plan, args.plan, device, allow=args.allow_drift, resumes=True)
    if not agreed(checked, yes=args.yes):
        if args.json:
            show_json({"preflight": checked.model_dump(mode="json"), "verification": None, "may_start": False})
        return ExitCode.REFUSED
    attempt = attempt_of(args).model_copy(update={"goal": "verify"})
    code = watch(Run(args.plan, device=device, attempt=attempt))
    report = read_verification(args.plan.parent)
    lower = report is not None and bool(report.ladder)
    if args.json:
        dumped = report.model_dump(mode="json") if report is not None else None
        may_start = code is ExitCode.OK and not lower
        show_json({"preflight": checked.model_dump(mode="json"), "verification": dumped, "may_start": may_start})
    elif code is ExitCode.OK:
        run_command(["explain", str(args.plan), str(args.plan.parent / VERIFICATION)])
    if code is not ExitCode.OK or report is None:
        return code
    if not args.json:
        changes = "; ".join(rung.change for rung in report.ladder)
        show("", f"it fits one rung lower: {changes}" if lower else f"the run may start: vramplan run {args.plan}")
    return ExitCode.TIGHT if lower else ExitCode.OK
