"""``vramplan explain``: a plan's budget (EXPLAIN), beside what happened when there is a report (EXPLAIN ANALYZE); or
what an out-of-memory message says."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.plan_files import read_plan, read_reports
from vramplan.planner.cli.achieved import achieved, achieved_words
from vramplan.planner.cli.ledger import method_words, phase_words
from vramplan.planner.cli.render import joined, paragraph, show, show_json, table, terminal_width
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.explain import Compared, ExplainedLine, ExplainedPhase, Explanation, explain
from vramplan.planner.explain_ranks import ExplainedRank
from vramplan.planner.units import format_bytes, format_count

NOT_MEASURED = "not measured"
MOST_RANKS = 16
"""Of more, the others are in ``--json``."""


def add_parser(subparsers: Any) -> None:
    """Register ``explain``."""
    parser = subparsers.add_parser(
        "explain", description="Print a plan's budget line by line; with a report, beside what really happened."
    )
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="a plan file")
    parser.add_argument(
        "report", metavar="REPORT", nargs="?", help="a run's report; report.json beside the plan when there is one"
    )
    parser.add_argument(
        "--oom", metavar="FILE", help="a PyTorch out-of-memory message, - for stdin, beside PLAN when there is one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print the explanation.

    Raises:
        UsageError: neither a plan nor a message is named, or one of them cannot be read.
    """
    if args.oom is not None:
        return _run_oom(args)
    if args.plan is None:
        raise UsageError("explain needs a plan", remedy="vramplan explain PLAN, or vramplan explain --oom FILE")
    path = Path(args.plan)
    plan = read_plan(path)
    if plan.later_stages and args.report is None:
        from vramplan.planner.cli.explain_stages import explain_stages

        return explain_stages(plan, path, as_json=args.json)
    beside = path.with_name("report.json")
    report_path = Path(args.report) if args.report else beside if beside.exists() else None
    explanation = explain(plan, read_reports(report_path) if report_path else None)
    if args.json:
        speed = achieved(plan, explanation.report)
        show_json(explanation_object(explanation) | {"speed": None if speed is None else speed.model_dump()})
    else:
        show(explanation_text(explanation, width=terminal_width()))
        if (speed := achieved(plan, explanation.report)) is not None:
            show(paragraph(achieved_words(speed), width=terminal_width(), first="speed: "))
    return ExitCode.OK


def _run_oom(args: argparse.Namespace) -> ExitCode:
    from vramplan.planner.cli.oom_text import oom_object, oom_text, read_oom

    oom, plan = read_oom(args.oom), read_plan(Path(args.plan)) if args.plan else None
    if args.json:
        show_json(oom_object(oom, plan))
    else:
        show(oom_text(oom, plan, width=terminal_width()))
    return ExitCode.OK


def explanation_object(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON values, every row with its error."""
    phases = [_compared(phase) | {"lines": [_compared(line) for line in phase.lines]} for phase in explanation.phases]
    return {
        "plan": explanation.plan.model_dump(mode="json", exclude={"budget"}),
        "figures": [_compared(figure) for figure in explanation.figures],
        "ranks": [_of_rank(rank) for rank in explanation.ranks],
        "peak_phase": explanation.plan.budget.peak_phase,
        "phases": phases,
        "process_lines": [_compared(line) for line in explanation.process_lines],
        "peak_tensors": [tensor.model_dump(mode="json") for tensor in explanation.peak_tensors],
        "report": explanation.report.model_dump(mode="json") if explanation.report else None,
        "remarks": list(explanation.remarks),
    }


def explanation_text(explanation: Explanation, *, width: int) -> str:
    """The explanation for a terminal."""
    plan = explanation.plan
    title = "EXPLAIN" if explanation.report is None else "EXPLAIN ANALYZE"
    device = plan.device.name if plan.device else "no device"
    head = joined((plan.model.repo_id, method_words(plan.setup.method), device, f"plan {plan.fingerprint[:12]}"))
    blocks = [paragraph(f"{title}  {head}", width=width), paragraph(_setup_words(explanation), width=width), ""]
    blocks += [_figures(explanation, width), ""]
    if explanation.ranks:
        blocks += [_ranks(explanation, width), ""]
    if explanation.report is not None:
        blocks += [_phases(explanation, width), ""]
    peak = plan.budget.peak_phase
    for phase in sorted(explanation.phases, key=lambda phase: phase.name != peak):
        if phase.lines:
            blocks += [_ledger(phase, analyze=explanation.report is not None, peak=phase.name == peak, width=width), ""]
    if explanation.process_lines:
        rows = [["outside", "estimate", "up to", "because"]]
        rows += [[_name(line), _size(line.estimate_bytes), _size(line.high_bytes), line.because]
                 for line in explanation.process_lines]  # fmt: skip
        blocks += [table(rows, "<>><", width=width), ""]
    if explanation.peak_tensors:
        rows = [["alive at the peak", "bytes", "count", "shape"]]
        rows += [[tensor.label, format_bytes(tensor.total_bytes), str(tensor.count), tensor.shape]
                 for tensor in explanation.peak_tensors[:12]]  # fmt: skip
        blocks += [table(rows, "<>><", width=width), ""]
    blocks += [paragraph(remark, width=width, first="note: ") for remark in explanation.remarks]
    blocks.append(_outcome(explanation, width))
    return "\n".join(blocks).rstrip()


def _setup_words(explanation: Explanation) -> str:
    plan = explanation.plan
    setup = plan.setup
    return joined(
        (
            f"{format_count(plan.model.total_params)} parameters",
            f"{format_count(plan.model.trainable_params)} train",
            f"sequence length {plan.workload.sequence_length}",
            f"micro batch {setup.micro_batch_size} x {setup.gradient_accumulation_steps} accumulation",
            setup.optimizer,
            f"checkpointing {'on' if setup.gradient_checkpointing else 'off'}",
        )
    )


def _figures(explanation: Explanation, width: int) -> str:
    if explanation.report is None:
        rows = [["figure", "estimate", "up to"]]
        rows += [
            [figure.name, _size(figure.estimate_bytes), _size(figure.high_bytes)] for figure in explanation.figures
        ]
        return table(rows, "<>>", width=width)
    tracked = any(figure.tracked_bytes is not None for figure in explanation.figures)
    rows = [["figure", "estimate", "up to", "actual", *(["tracker"] if tracked else []), "error"]]
    for figure in explanation.figures:
        by_tracker = [_size(figure.tracked_bytes)] if tracked else []
        rows.append([figure.name, *_sizes(figure), *by_tracker, error_words(figure)])
    return table(rows, "<>>>" + (">" if tracked else "") + "<", width=width)


def _ranks(explanation: Explanation, width: int) -> str:
    """The budget, which is that of the rank that holds most, and under it what each rank held."""
    columns = ("allocated", "reserved", "static", "process")
    rows = [["rank", *(word for name in columns for word in (name, "error"))]]
    planned = explanation.ranks[0]
    rows.append(["planned", *(word for name in columns for word in (_size(getattr(planned, name).estimate_bytes), ""))])
    for rank in explanation.ranks[:MOST_RANKS]:
        found = [getattr(rank, name) for name in columns]
        sizes = [word for each in found for word in (_size(each.actual_bytes), _share(each))]
        rows.append([str(rank.rank), *sizes])
    more = len(explanation.ranks) - MOST_RANKS
    rows += [[f"{more} more", *[""] * 8]] if more > 0 else []
    return table(rows, "<" + "><" * 4, width=width)


def _share(row: Compared) -> str:
    """The error alone, short: there are four in a row."""
    if row.error_fraction is None:
        return ""
    return "exact" if row.error_bytes == 0 else f"{row.error_fraction:+.1%}".replace("%", " %")


def _phases(explanation: Explanation, width: int) -> str:
    tracked = any(phase.tracked_bytes is not None for phase in explanation.phases)
    rows = [["phase", "estimate", "up to", "actual", *(["tracker"] if tracked else []), "error"]]
    for phase in explanation.phases:
        by_tracker = [_size(phase.tracked_bytes)] if tracked else []
        rows.append([phase_words(phase.name), *_sizes(phase), *by_tracker, error_words(phase)])
    return table(rows, "<>>>" + (">" if tracked else "") + "<", width=width)


def _ledger(phase: ExplainedPhase, *, analyze: bool, peak: bool, width: int) -> str:
    title = f"{phase_words(phase.name)}: {_size(phase.estimate_bytes)} allocated{', the peak' if peak else ''}"
    if not analyze:
        rows = [["part", "estimate", "up to", "B/param", "because"]]
        for line in phase.lines:
            per_param = f"{line.bytes_per_param:.2f}"
            rows.append([_name(line), _size(line.estimate_bytes), _size(line.high_bytes), per_param, line.because])
        return f"{title}\n{table(rows, '<>>><', width=width)}"
    rows = [["part", "estimate", "up to", "actual", "error"]]
    rows += [[_name(line), *_sizes(line), error_words(line)] for line in phase.lines]
    return f"{title}\n{table(rows, '<>>><', width=width)}"


def _outcome(explanation: Explanation, width: int) -> str:
    report = explanation.report
    if report is None:
        return paragraph("run it with: vramplan run PLAN; the report is then set beside this", width=width)
    losses = ""
    if report.first_loss is not None and report.last_loss is not None:
        losses = f"loss {report.first_loss:.3f} to {report.last_loss:.3f}"
    speed = "" if report.tokens_per_second is None else f"{report.tokens_per_second:.0f} tokens/s"
    took = f"{report.status}: {report.steps} steps in {report.seconds:.1f} s"
    paused = f"paused for {report.paused_seconds:.1f} s besides" if report.paused_seconds else ""
    return paragraph(joined((took, paused, losses, speed, report.output_dir)), width=width)


def error_words(row: Compared) -> str:
    """The error in bytes and per cent, or why there is none.

    >>> error_words(Compared(estimate_bytes=1024, high_bytes=1030, actual_bytes=1126))
    '+102 B, +10.0 %, above its bound'
    >>> error_words(Compared(estimate_bytes=1024, high_bytes=1024, actual_bytes=1024))
    'exact'
    """
    if row.error_bytes is None:
        return "" if row.actual_bytes is None else "not in the plan"
    if row.error_bytes == 0:
        return "exact"
    sign = "+" if row.error_bytes > 0 else ""
    percent = "" if row.error_fraction is None else f", {row.error_fraction:+.1%}".replace("%", " %")
    return f"{sign}{format_bytes(row.error_bytes)}{percent}{', above its bound' if row.above_high else ''}"


def _sizes(row: Compared) -> list[str]:
    return [_size(row.estimate_bytes, ""), _size(row.high_bytes, ""), _size(row.actual_bytes)]


def _size(size_bytes: int | None, otherwise: str = NOT_MEASURED) -> str:
    return otherwise if size_bytes is None else format_bytes(size_bytes)


def _name(line: ExplainedLine) -> str:
    return line.component.replace("_", " ")


def _of_rank(rank: ExplainedRank) -> dict[str, Any]:
    names = ("allocated", "reserved", "static", "process")
    return {"rank": rank.rank} | {name: _compared(getattr(rank, name)) for name in names}


def _compared(row: Compared) -> dict[str, Any]:
    return row.model_dump(mode="json", exclude={"lines"}) | {
        "error_bytes": row.error_bytes,
        "error_fraction": row.error_fraction,
    }
