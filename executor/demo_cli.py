"""``vramplan demo``: a real small model sized, planned, trained and compared here, by the commands themselves.

Every step is a command a person could type; it is printed, then run. Only the model and the text are prepared apart.
"""

import argparse
import contextlib
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vramplan.executor.demo_assets import MODEL_NAME, DemoAssets, demo_folder, find_sources, prepare_assets
from vramplan.executor.evidence import REPORT
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.cli.main import run_command
from vramplan.planner.cli.parsing import whole_number
from vramplan.planner.cli.render import show, show_json, tell
from vramplan.planner.device import Device
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.report import RunReport
from vramplan.planner.units import format_bytes

DEFAULT_STEPS = 40
"""About a minute on two processor cores, and enough for the held-out loss to fall by a quarter."""

# 35 of the demo's rows are longer than this, so the first (measured) batches are full: no padding, the planned shape.
SHAPE = ("--sequence-length", "96", "--micro-batch", "4", "--gradient-accumulation-steps", "1", "--padding", "none")
METHOD = ("--method", "lora", "--rank", "8", "--alpha", "16", "--no-gradient-checkpointing")
RECIPE = ("--learning-rate", "5e-4", "--warmup-steps", "0.1", "--seed", "0")


def add_parser(subparsers: Any) -> None:
    """Add ``demo`` to the command line."""
    parser = subparsers.add_parser(
        "demo",
        help="the whole line on a small real model, on the hardware here",
        description=f"Size, plan, train and compare {MODEL_NAME} on the hardware here. Model and text are kept in the "
        "user's cache folder; the run goes to runs/demo.",
    )
    parser.add_argument("--steps", metavar="N", type=whole_number, default=DEFAULT_STEPS, help="optimizer steps (40)")
    parser.add_argument("--device", metavar="NAME", default="auto", help="auto: the GPU here, else the processor; cpu")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of tables")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Prepare, recommend, plan, run, compare.

    Raises:
        MissingExtraError: the demo's packages are not installed.
        UsageError: a number of steps that makes no sense.
    """
    if args.steps < 1:
        raise UsageError(f"--steps {args.steps} is not possible", remedy="use --steps 1 or more")
    find_sources()
    tell(f"vramplan demo: {MODEL_NAME} on this machine; model and text are kept in {demo_folder()}")
    assets = prepare_assets(tell)
    device = device_to_use(args.device)
    plan_path = free_folder(Path("runs"), "demo") / "plan.json"
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        code = run_all(commands(assets, device, args.steps, plan_path))
    if code is ExitCode.OK:
        summarise(plan_path, as_json=args.json)
    return code


def device_to_use(text: str) -> str:
    """``auto`` as a name the other commands take: the first GPU that can train here, else the processor."""
    if text != "auto":
        return text
    from vramplan.planner.adapters.devices import resolve_device

    device, _ = resolve_device("auto", memory_bytes=None, reserve_bytes=0)
    return "auto" if device is not None and device.kind == "cuda" else "cpu"


def commands(assets: DemoAssets, device: str, steps: int, plan_path: Path) -> Iterable[list[str]]:
    """The command lines, in order."""
    place = (str(assets.model), "--device", device, "--data", str(assets.train))
    yield ["recommend", *place, *SHAPE]
    yield plan_words(assets, device, steps, plan_path)
    yield ["run", str(plan_path), "--yes", "--track", "--no-verify"]


def plan_words(assets: DemoAssets, device: str, steps: int, plan_path: Path) -> list[str]:
    """The command line that plans the demo's run."""
    return ["plan", str(assets.model), "--device", device, "--data", str(assets.train), *SHAPE, *METHOD, *RECIPE,
            "--max-steps", str(steps), "--eval-data", str(assets.held_out),
            "--output-dir", str(plan_path.parent / "adapter"), "-o", str(plan_path)]  # fmt: skip


def run_all(lines: Iterable[list[str]]) -> ExitCode:
    """Run one after the other, each shown first, until one does not end well."""
    for line in lines:
        tell("", f"$ vramplan {shlex.join(line)}", "")
        code = ExitCode(run_command(line))
        sys.stdout.flush()
        if code is not ExitCode.OK:
            return code
    return ExitCode.OK


def free_folder(parent: Path, name: str) -> Path:
    """``parent/name``, or with the first number that is not taken: no earlier run is touched."""
    number = 1
    folder = parent / name
    while folder.exists():
        number += 1
        folder = parent / f"{name}-{number}"
    return folder


def summarise(plan_path: Path, *, as_json: bool) -> None:
    """What came of it, where it is, and what to do next."""
    report_path = plan_path.with_name(REPORT)
    report = read_report(report_path)
    if as_json:
        from vramplan.planner.cli.explain import explanation_object
        from vramplan.planner.explain import explain

        files = {"plan": str(plan_path), "report": str(report_path), "adapter": report.output_dir}
        show_json({"files": files, "explanation": explanation_object(explain(read_plan(plan_path), report))})
        return
    show("", learned(report), "", *next_steps(plan_path, report))
    device = read_plan(plan_path).device
    if device is not None and device.route is not None:
        show("", "the largest catalogue models this device could tune, at the defaults (--sequence-length 1024):")
        for line in tunable(device):
            show(line)


def learned(report: RunReport) -> str:
    """Held-out loss before and after, in a sentence."""
    before, after = report.eval_loss_before, report.eval_loss_after
    if before is None or after is None:
        return "held-out loss was not measured"
    change = after / before - 1
    return f"held-out loss {before:.3f} -> {after:.3f} ({change:+.0%}), on pairs it was never shown"


def tunable(device: Device) -> Iterator[str]:
    """A line per method, each as soon as its search is over."""
    from vramplan.planner.cli.largest import largest_on

    for found in largest_on(device, {}):
        if found.done and found.candidate is not None:
            high = format_bytes(found.candidate.budget.high_process_bytes)
            yield f"  {found.method:<6} {found.model}, up to {high}"


def next_steps(plan_path: Path, report: RunReport) -> list[str]:
    """Where the files are, and commands worth trying with a model of one's own."""
    return [
        f"plan     {plan_path}",
        f"report   {plan_path.with_name(REPORT)}",
        f"adapter  {report.output_dir}",
        "",
        "next:",
        f"  vramplan explain {plan_path}",
        "  vramplan recommend Qwen/Qwen2.5-7B --device 'RTX 4090'",
        "  vramplan estimate meta-llama/Llama-3.1-8B --method qlora --memory 12GiB",
        "  vramplan                                    the app: the same, with keys and mouse",
    ]
