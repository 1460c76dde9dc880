"""``vramplan runs [RUN]``: what was run here; of one run, what was planned beside what was used."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.executor.bundle import write_bundle
from vramplan.executor.runs import RUNS, PastRun, find_runs, named_run, run_name
from vramplan.planner.cli.ledger import method_words
from vramplan.planner.cli.render import plain, show, show_json, table, tell, terminal_width
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.report import RunReport
from vramplan.planner.units import format_bytes

HEAD = ["run", "model", "method", "status", "steps", "loss", "planned", "used"]


def add_parser(subparsers: Any) -> None:
    """Add ``runs`` to the command line."""
    parser = subparsers.add_parser("runs", help="what was run here", description="List runs, or show one of them.")
    parser.add_argument("run_name", metavar="RUN", nargs="?", help="a run folder, or its name under runs/")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--bundle", metavar="FILE", type=Path, help="write RUN's plan, events, reports and log as a zip without secrets"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """List the runs under runs/, or show one.

    Raises:
        UsageError: there is no such run.
        PlanError: its plan cannot be trusted.
    """
    if args.bundle is not None and args.run_name is None:
        raise UsageError("--bundle needs a run", remedy="see what there is: vramplan runs")
    if args.run_name is not None:
        found = named_run(args.run_name)
        if args.bundle is not None:
            return _bundle(Path(found.folder), args.bundle)
        show_json(run_object(found)) if args.json else show(run_text(found, width=terminal_width()))
        return ExitCode.OK
    runs, unreadable = find_runs()
    if args.json:
        show_json({"runs": [run_object(each) for each in runs]})
    elif runs:
        show(table([HEAD, *(_row(each) for each in runs)], "<<<<>><<", width=terminal_width()))
    else:
        tell(f"no runs under {RUNS.absolute()}")
    for why in unreadable:
        tell(f"left out: {plain(why)}")
    return ExitCode.OK


def _bundle(run_folder: Path, out: Path) -> ExitCode:
    names, removed = write_bundle(run_folder, out)
    tell(f"{plain(str(out))}: {', '.join(names)}; {removed} secrets removed", "  read it before you send it")
    return ExitCode.OK


def run_object(found: PastRun) -> dict[str, Any]:
    """A run as JSON values: the plan without its budget, both reports whole."""
    return found.model_dump(mode="json", exclude={"plan": {"budget"}})


def run_text(found: PastRun, *, width: int) -> str:
    """One run: where it stands, planned beside used, what the ladder did, and what to do next."""
    plan, report = found.plan, found.report or found.verification
    rows = [["setup", "planned", "used"], *_setup_rows(found)]
    if report is not None:
        measured = report.peak_allocated_bytes
        rows.append(["peak allocated", format_bytes(plan.budget.peak_allocated_bytes), _size(measured)])
        rows.append(["process", format_bytes(plan.budget.process_bytes), _size(report.process_bytes)])
    blocks = [f"{plain(found.folder)}: {found.status}, {plan.model.repo_id}, plan {plan.fingerprint[:12]}"]
    blocks += ["", table(rows, "<>>", width=width)]
    if report is not None:
        blocks += ["", *_story(report)]
    command = next_command(found)
    return "\n".join([*blocks, *(["", f"next: {command}"] if command else [])])


def _setup_rows(found: PastRun) -> list[list[str]]:
    """The fields of the setup that the ladder may change."""
    planned = found.plan.setup
    used = found.report.setup if found.report is not None and found.report.setup is not None else planned
    names = ("micro_batch_size", "gradient_accumulation_steps", "gradient_checkpointing")
    return [[name.replace("_", " "), *(str(getattr(setup, name)) for setup in (planned, used))] for name in names]


def _story(report: RunReport) -> list[str]:
    lines = [f"{report.steps} steps in {report.seconds:.0f} s"]
    if report.tokens_per_second is not None:
        lines[0] += f", {report.tokens_per_second:.0f} tokens/s"
    if report.paused_seconds:
        lines[0] += f", paused for {report.paused_seconds:.0f} s besides"
    if report.energy_joules is not None:
        lines.append(f"{report.energy_joules / 3.6e6:.3f} kWh by the GPU")
    if report.losses:
        lines.append(f"loss {_curve(report)}")
    if report.eval_loss_before is not None and report.eval_loss_after is not None:
        lines.append(f"held-out loss {report.eval_loss_before:.4f} -> {report.eval_loss_after:.4f}")
    if report.resumed_from_step is not None:
        lines.append(f"went on from the checkpoint of step {report.resumed_from_step}")
    for rung in report.ladder:
        where = "" if rung.phase is None else f" in {rung.phase.replace('_', ' ')} of step {rung.step + 1}"
        lines.append(f"out of memory{where}: {rung.change}")
    if report.failure:
        lines.append(plain(report.failure))
    return lines


def _curve(report: RunReport, points: int = 6) -> str:
    """A few points of the loss curve, first and last among them."""
    stride = max(1, -(-(len(report.losses) - 1) // (points - 1)))
    chosen = (*report.losses[:-1:stride], report.losses[-1])
    return ", ".join(f"{loss:.3f} at {step}" for step, loss in chosen)


def next_command(found: PastRun) -> str | None:
    """The command line that goes on from where a run stands; None while it is under way."""
    plan_path = Path(found.folder) / "plan.json"
    if found.status in ("planned", "verified"):
        return f"vramplan run {plan_path}"
    if found.status in ("failed", "interrupted", "killed"):
        return f"vramplan run {plan_path}" + (" --resume" if found.checkpoint_step is not None else "")
    return f"vramplan explain {plan_path}" if found.status == "done" else None


def _row(found: PastRun) -> list[str]:
    report = found.report
    steps = "" if report is None else str(report.steps)
    loss = "" if report is None or report.last_loss is None else f"{report.last_loss:.4f}"
    used = _size(report.process_bytes) if report is not None else ""
    planned = format_bytes(found.plan.budget.process_bytes)
    name = plain(run_name(Path(found.folder)))
    method = method_words(found.plan.setup.method)
    return [name, plain(found.plan.model.repo_id), method, found.status, steps, loss, planned, used]


def _size(size_bytes: int | None) -> str:
    return "not measured" if size_bytes is None else format_bytes(size_bytes)
