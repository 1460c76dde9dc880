"""``vramplan run PLAN``: preflight, the run with its progress, and what happened beside what was planned."""

import argparse
import sys
from pathlib import Path
from typing import Any

from vramplan.executor.events import Failed
from vramplan.executor.evidence import REPORT
from vramplan.executor.here import device_here
from vramplan.executor.launcher import Run
from vramplan.executor.packages import installed_packages
from vramplan.executor.preflight import Preflight, preflight, preflight_text
from vramplan.executor.progress import Narrator
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.cli.main import run_command
from vramplan.planner.cli.render import show_json, terminal_width
from vramplan.planner.device import Device
from vramplan.planner.errors import ExitCode
from vramplan.planner.plan import Plan


def add_parser(subparsers: Any) -> None:
    """Add ``run`` to the command line."""
    parser = subparsers.add_parser("run", help="run a plan, supervised")
    parser.add_argument("plan", metavar="PLAN", type=Path, help="a plan file (plan.json)")
    parser.add_argument("--json", action="store_true", help="print the preflight and the report as JSON")
    parser.add_argument("--yes", action="store_true", help="do not ask before starting with warnings")
    parser.add_argument(
        "--allow-drift",
        metavar="NAME",
        action="append",
        default=[],
        help="accept one blocking difference by the name preflight gives it; may be repeated",
    )
    parser.add_argument(
        "--track", action="store_true", help="follow one step with the tracker that prices setups, as a second opinion"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Check, train, and set the report beside the plan.

    Raises:
        PlanError: the plan file cannot be trusted.
    """
    plan = read_plan(args.plan)
    device = device_here(plan)
    checked = check(plan, args.plan, device, allow=args.allow_drift)
    sys.stderr.write(preflight_text(checked) + "\n")
    if not checked.go or not (args.yes or _agreed(checked)):
        if args.json:
            show_json({"preflight": checked.model_dump(mode="json"), "report": None})
        return ExitCode.REFUSED
    code = _watch(Run(args.plan, device=device, track=args.track))
    report_path = args.plan.parent / REPORT
    report = read_report(report_path) if report_path.exists() else None
    if args.json:
        dumped = report.model_dump(mode="json") if report is not None else None
        show_json({"preflight": checked.model_dump(mode="json"), "report": dumped})
    elif code is ExitCode.OK:
        run_command(["explain", str(args.plan), str(report_path)])
    return code


def check(plan: Plan, plan_path: Path, device: Device | None, *, allow: list[str]) -> Preflight:
    """Preflight with what is installed and here now."""
    packages = installed_packages()
    return preflight(plan, plan_path, device=device, packages=packages, allow=allow)


def _watch(run: Run) -> ExitCode:
    narrator = Narrator(sys.stderr.write, live=sys.stderr.isatty(), width=terminal_width())
    code = ExitCode.FAILED
    try:
        for event in run.events():
            narrator.tell(event)
            if event.event == "finished":
                code = ExitCode.OK
            elif isinstance(event, Failed) and event.interrupted:
                code = ExitCode.INTERRUPTED
    finally:
        narrator.close()
    return code


def _agreed(checked: Preflight) -> bool:
    """Warnings are confirmed on a terminal; where nobody can answer, going on is what was asked for."""
    if all(one.verdict == "ok" for one in checked.checks) or not sys.stdin.isatty():
        return True
    sys.stderr.write("start in spite of the warnings? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
