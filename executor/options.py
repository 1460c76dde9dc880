"""Options that ``run`` and ``verify`` share, and the checks both begin with."""

import argparse
import sys
from pathlib import Path

from vramplan.executor.attempt import Attempt
from vramplan.executor.here import devices_here
from vramplan.executor.packages import installed_packages
from vramplan.executor.preflight import Preflight, preflight, preflight_text
from vramplan.executor.smoke_checks import smoke_checks
from vramplan.executor.verification import passed_verification
from vramplan.planner.device import Device
from vramplan.planner.plan import Plan


def add_shared_options(parser: argparse.ArgumentParser) -> None:
    """PLAN, --json, --yes, --allow-drift, --strict-budget, --track."""
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
        "--strict-budget", action="store_true", help="allow the process no more memory than the plan's upper bound"
    )
    parser.add_argument(
        "--track", action="store_true", help="follow one step with the tracker that prices setups, as a second opinion"
    )


def attempt_of(args: argparse.Namespace) -> Attempt:
    """What these options ask of the worker."""
    return Attempt(track=args.track, accept=tuple(args.allow_drift), strict_budget=args.strict_budget)


def check(
    plan: Plan,
    plan_path: Path,
    device: Device | None,
    *,
    allow: list[str],
    verifies: bool = True,
    resumes: bool = False,
) -> Preflight:
    """Preflight with what is installed and here now.

    Args:
        verifies: a verification comes first, so a tight fit only warns.
        resumes: the output folder's checkpoints are wanted.
    """
    packages = installed_packages()
    verified = verifies or resumes or passed_verification(plan, plan_path.parent, device, packages) is not None
    found = preflight(
        plan,
        plan_path,
        device=device,
        packages=packages,
        allow=allow,
        verified=verified,
        resumes=resumes,
        ranks=devices_here(plan) if plan.setup.world_size > 1 else (),
    )
    if not found.go:
        return found
    return Preflight(checks=(*found.checks, *smoke_checks(plan, device)))


def must_verify(plan: Plan, plan_path: Path, device: Device | None) -> bool:
    """Nobody has verified this plan on such a device with these libraries."""
    return passed_verification(plan, plan_path.parent, device, installed_packages()) is None


def agreed(checked: Preflight, *, yes: bool) -> bool:
    """Show the checks; warnings are confirmed on a terminal. Where nobody can answer, going on is what was asked."""
    sys.stderr.write(preflight_text(checked) + "\n")
    if not checked.go:
        return False
    if yes or all(one.verdict == "ok" for one in checked.checks) or not sys.stdin.isatty():
        return True
    sys.stderr.write("start in spite of the warnings? [y/N] ")
    return sys.stdin.readline().strip().lower() in ("y", "yes")
