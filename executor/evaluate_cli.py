"""``vramplan evaluate RUN``: the base and what the run made of it, on rows neither was shown."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.executor.evaluate_rows import held_out
from vramplan.executor.evaluate_wire import EVALUATION, EvaluateRequest, Evaluation, Scores
from vramplan.executor.finished import finished_run
from vramplan.executor.finished_child import carry_out
from vramplan.executor.here import device_here
from vramplan.planner.adapters.devices import read_cpu
from vramplan.planner.cli.render import paragraph, plain, show, show_json, table, terminal_width
from vramplan.planner.errors import ExitCode


def add_parser(subparsers: Any) -> None:
    """Add ``evaluate`` to the command line."""
    parser = subparsers.add_parser(
        "evaluate",
        help="base and tuned model on held-out rows",
        description="Loss and perplexity, or accuracy and F1, of the base and of what the run made of it.",
    )
    parser.add_argument("run_name", metavar="RUN", help="a run folder, or its name under runs/")
    parser.add_argument("--data", metavar="FILE", help="rows to evaluate on; those the run held out without")
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="auto: the plan's kind, else the CPU")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Check the rows, evaluate in a process of its own, show both models.

    Raises:
        UsageError: there is no such run.
        BadDataError: there are no rows, or one is unusable.
        RunError: the run has not finished, or the evaluation failed.
    """
    found = finished_run(args.run_name)
    held_out(found.plan, args.data)
    here = read_cpu() if args.device == "cpu" else device_here(found.plan)
    device = here if here is not None and here.kind in ("cuda", "cpu") else read_cpu()
    output = found.folder.absolute() / EVALUATION
    data = None if args.data is None else str(Path(args.data).absolute())
    carry_out("evaluate", EvaluateRequest(run=found.tuned, data=data, output=str(output)), found, device)
    evaluation = Evaluation.model_validate_json(output.read_bytes())
    if args.json:
        show_json(evaluation.model_dump(mode="json"))
    else:
        show(evaluation_text(evaluation, width=terminal_width()))
    return ExitCode.OK


def evaluation_text(found: Evaluation, *, width: int) -> str:
    """Both models, a row each, and what to compare them with."""
    classifies = found.base.accuracy is not None
    head = ["", "rows", "loss", *(["accuracy", "macro F1"] if classifies else ["tokens", "perplexity"])]
    rows = [head, ["base", *_cells(found.base)], ["tuned", *_cells(found.tuned)]]
    change = f"loss {found.tuned.loss - found.base.loss:+.4f}"
    if found.base.accuracy is not None and found.tuned.accuracy is not None:
        change += f", accuracy {(found.tuned.accuracy - found.base.accuracy) * 100:+.1f} points"
    blocks = [f"{plain(found.run)} on {plain(found.data)}", table(rows, "<>>>>", width=width), change]
    if found.most_frequent_share is not None:
        blocks.append(f"guessing the most frequent class would be right {found.most_frequent_share:.1%} of the time")
    if found.note is not None:
        blocks.append(paragraph(found.note, width=width, first="note: "))
    return "\n".join(blocks)


def _cells(scores: Scores) -> list[str]:
    if scores.accuracy is not None and scores.macro_f1 is not None:
        return [str(scores.rows), f"{scores.loss:.4f}", f"{scores.accuracy:.1%}", f"{scores.macro_f1:.3f}"]
    perplexity = "too large" if scores.perplexity is None else f"{scores.perplexity:.2f}"
    return [str(scores.rows), f"{scores.loss:.4f}", f"{scores.tokens:,}", perplexity]
