"""``vramplan calibrate``: what runs here have shown about the figures nobody can count, and a short set to measure."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.executor import calibrating
from vramplan.planner.adapters.calibration_files import (
    calibrated_devices,
    calibration_folder,
    find_figures,
    forget,
    read_observations,
    remember,
)
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.calibration import Observation, changes
from vramplan.planner.cli.render import plain, show, show_json, table, tell, terminal_width
from vramplan.planner.device import Device
from vramplan.planner.errors import ExitCode, UnsupportedError, UsageError

SECONDS = 420.0


def add_parser(subparsers: Any) -> None:
    """Add ``calibrate`` to the command line."""
    parser = subparsers.add_parser(
        "calibrate",
        help="measure a short set on the GPU here, or fold reports of runs",
        description="Measure a short fixed set on the GPU here, and fold it, like every run on it, into the ranges.",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--from", dest="reports", metavar="RUN", nargs="+", type=Path, help="fold reports of runs instead"
    )
    what.add_argument("--show", action="store_true", help="show what the runs here have changed")
    what.add_argument("--reset", action="store_true", help="forget what the runs here have shown")
    parser.add_argument("--device", metavar="NAME", help="whose evidence to show or forget; default: every GPU's")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"start no measurement after this long ({SECONDS:.0f})"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Measure, fold, show or forget.

    Raises:
        UnsupportedError: there is no GPU here to measure.
        UsageError: a named run or device is not there, or the data folder cannot be written.
    """
    if args.reset:
        return _reset(_named(args.device))
    if args.show:
        return _show(_named(args.device), as_json=args.json)
    found = _from_reports(args.reports) if args.reports else _from_measuring(args.seconds)
    if not found:
        tell("nothing was learnt")
        return ExitCode.FAILED
    try:
        remember(found)
    except OSError as error:
        raise UsageError(
            f"cannot write into {calibration_folder()}: {error.strerror}", remedy="set XDG_DATA_HOME to another folder"
        ) from error
    return _show(tuple(dict.fromkeys(each.device for each in found)), as_json=args.json)


def _from_reports(paths: list[Path]) -> list[Observation]:
    found = []
    for path in paths:
        observation = calibrating.observe_run(path)
        if observation is None:
            tell(f"{plain(str(path))}: tells nothing about a GPU, or its batch was not the planned one")
        else:
            found.append(observation)
    return found


def _from_measuring(seconds: float) -> list[Observation]:
    device, _ = resolve_device("auto", memory_bytes=None, reserve_bytes=0)
    if device is None or device.kind != "cuda":
        raise UnsupportedError(
            "there is no CUDA device here to measure",
            remedy="run it where the GPU is, or fold the reports of runs: vramplan calibrate --from RUN ...",
        )
    found = []
    for name, shown in calibrating.measure(device, calibrating.cells(), seconds):
        tell(f"{name}: {shown if isinstance(shown, str) else _words(shown)}")
        if isinstance(shown, Observation):
            found.append(shown)
    return found


def _words(shown: Observation) -> str:
    excess = "not comparable" if shown.dynamic_excess is None else f"{shown.dynamic_excess:+.2%} of the dynamic part"
    return f"peak {excess}"


def _show(devices: tuple[str, ...], *, as_json: bool) -> ExitCode:
    told = [(name, find_figures(_product(name)), read_observations(name)) for name in devices]
    if as_json:
        show_json(
            {
                "folder": str(calibration_folder()),
                "devices": [
                    {
                        "device": name,
                        "figures": figures.model_dump(mode="json"),
                        "changes": [change.model_dump() for change in changes(figures)],
                        "observations": [each.model_dump(mode="json") for each in observations],
                    }
                    for name, figures, observations in told
                ],
            }
        )
        return ExitCode.OK
    for name, figures, observations in told:
        rows = [["figure", "without", "now", "evidence"]]
        rows += [[each.what, each.prior, each.now, plain(each.evidence)] for each in changes(figures)]
        plans = "1 plan" if figures.num_plans == 1 else f"{figures.num_plans} plans"
        left_out = len(observations) - figures.num_plans
        other = f"; {left_out} more with another torch" if left_out else ""
        show(f"{plain(name)}: {plans} run{other}", table(rows, "<<<<", width=terminal_width()))
    if not told:
        tell("nothing has been run on a GPU here; a run folds its report by itself, and vramplan calibrate measures")
    return ExitCode.OK


def _reset(devices: tuple[str, ...]) -> ExitCode:
    for name in devices:
        if forget(name):
            tell(f"forgotten: {plain(name)}")
    if not devices:
        tell("there was nothing to forget")
    return ExitCode.OK


def _named(device: str | None) -> tuple[str, ...]:
    known = calibrated_devices()
    if device is None:
        return known
    chosen = tuple(name for name in known if device.lower() in name.lower())
    if not chosen:
        remedy = f"known: {', '.join(known)}" if known else "see: vramplan calibrate --show"
        raise UsageError(f"nothing is kept of {device!r}", remedy=remedy)
    return chosen


def _product(name: str) -> Device:
    return Device(source="profile", kind="cuda", name=name, total_bytes=0, free_bytes=None)
