"""``vramplan estimate``: the price of one setup, or of each method when none is named."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from vramplan.planner.candidate import Candidate, ResolvedOption
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.data_text import data_lines, data_object
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.ledger import (
    ledger_text,
    method_words,
    options_text,
    shared_options,
    subject_lines,
    verdict_text,
)
from vramplan.planner.cli.options import add_options, given_options
from vramplan.planner.cli.parsing import number, one_of
from vramplan.planner.cli.render import paragraph, show, show_json, table, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.cli.timing import cost_of, time_text
from vramplan.planner.errors import ExitCode, NoProgramError, UnsupportedError, UsageError, VramplanError
from vramplan.planner.methods import ESTIMATED_NAMES
from vramplan.planner.resolve import Resolved, given_for_method
from vramplan.planner.two_stage import TWO_STAGE
from vramplan.planner.units import format_bytes

SOLVABLE = ("sequence-length", "micro-batch", "rank", "gpus")
"""What ``--solve`` can look for."""
SOLVE_HELP = "the largest that fits: sequence-length, micro-batch, rank; gpus: how many are enough, what more gain"


class Unpriced(NamedTuple):
    """A method that has no price here, and why."""

    method: str
    error: VramplanError


def add_parser(subparsers: Any) -> None:
    """Register ``estimate``."""
    parser = subparsers.add_parser("estimate", description="Price one setup, or each method when --method is left out.")
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--solve", type=one_of(*SOLVABLE), metavar="OPTION", help=SOLVE_HELP)
    parser.rare.add_argument("--price", type=number, metavar="USD", help="dollars an hour of the device")
    parser.set_defaults(run=run)


def run(args: Any) -> ExitCode:
    """Print the estimate; the exit code is the verdict."""
    if args.price is not None and args.price < 0:
        raise UsageError(f"--price {args.price:g} is below zero", remedy="give dollars an hour, such as --price 1.5")
    given = given_options(args)
    subject = subjects.look_up(args)
    if args.solve == "gpus":
        from vramplan.planner.cli.gains import run_gains

        return run_gains(given, subject, usd_per_hour=args.price, as_json=args.json)
    if args.solve is not None:
        from vramplan.planner.cli.solve import run_solve

        return run_solve(args.solve, given, subject, as_json=args.json)
    if given.get("method") == TWO_STAGE:
        from vramplan.planner.cli.two_stage import run_estimate

        return run_estimate(given, subject, usd_per_hour=args.price, as_json=args.json)
    if "method" in given or "quant" in given:
        return _one(given, subject, usd_per_hour=args.price, as_json=args.json)
    return _each(given, subject, usd_per_hour=args.price, as_json=args.json)


def verdict_code(candidates: list[Candidate], *, device_named: bool) -> ExitCode:
    """0 when one of them fits, 3 when the best is tight, 1 when none fits, 4 without a verdict on a named device."""
    verdicts = {candidate.verdict for candidate in candidates}
    if "fits" in verdicts:
        return ExitCode.OK
    if "tight" in verdicts:
        return ExitCode.TIGHT
    if "no" in verdicts:
        return ExitCode.FAILED
    return ExitCode.NO_VERDICT if device_named else ExitCode.OK


def _one(given: dict[str, Any], subject: Subject, *, usd_per_hour: float | None, as_json: bool) -> ExitCode:
    resolved = subjects.complete(subject, given)
    candidate = subjects.price(subject, resolved)
    cost = cost_of(candidate, usd_per_hour=usd_per_hour, max_steps=resolved.recipe.max_steps)
    if as_json:
        row_lengths = data_object(subject, resolved.workload.sequence_length)
        show_json(estimate_object(candidate, resolved.options, cost) | {"row_lengths": row_lengths})
    else:
        width = terminal_width()
        show(
            *headline(subject, resolved.options, resolved, width=width),
            "",
            ledger_text(candidate, width=width),
            "",
            time_text(candidate, cost, width=width),
            "",
            verdict_text(candidate, width=width, unmeasured_rows=subject.unmeasured_rows),
        )
    return verdict_code([candidate], device_named=subject.device_named)


def _each(given: dict[str, Any], subject: Subject, *, usd_per_hour: float | None, as_json: bool) -> ExitCode:
    priced: list[tuple[Candidate, Resolved]] = []
    unpriced: list[Unpriced] = []
    for method in ESTIMATED_NAMES:
        try:
            wishes = given_for_method(given, method)
            resolved = subjects.complete(subject, wishes)
            priced.append((subjects.price(subject, resolved), resolved))
        except (UnsupportedError, NoProgramError) as error:
            unpriced.append(Unpriced(method, error))
    if not priced:
        raise unpriced[0].error
    if as_json:
        show_json(
            {
                "estimates": [
                    estimate_object(candidate, resolved.options, cost_of(candidate, usd_per_hour=usd_per_hour))
                    for candidate, resolved in priced
                ],
                "unpriced": [{"method": row.method, "reason": str(row.error)} for row in unpriced],
                "row_lengths": data_object(subject, priced[0][1].workload.sequence_length),
            }
        )
    else:
        _show_rows(subject, priced, unpriced)
    return verdict_code([candidate for candidate, _ in priced], device_named=subject.device_named)


def headline(subject: Subject, options: Sequence[ResolvedOption], resolved: Resolved, *, width: int) -> list[str]:
    """The model, the device, the data, and every option as it was understood."""
    length, completion_only = resolved.workload.sequence_length, resolved.recipe.completion_only
    return [
        *subject_lines(subject.model, subject.device, subject.device_note, width=width),
        *data_lines(subject, length, completion_only=completion_only, width=width),
        options_text(options, width=width),
    ]


def comparison_row(candidate: Candidate) -> list[str]:
    """One setup as a row: method, peak, process figures, headroom, verdict."""
    budget = candidate.budget
    return [
        method_words(candidate.setup.method),
        format_bytes(budget.process_bytes),
        format_bytes(budget.high_process_bytes),
        "" if candidate.headroom_bytes is None else format_bytes(candidate.headroom_bytes),
        candidate.verdict or "none",
        budget.peak_phase.replace("_", " "),
        "" if candidate.time is None else f"{candidate.time.tokens_per_second.typical:,.0f}",
    ]


COMPARISON_HEAD = ["method", "process", "up to", "headroom", "verdict", "peak in", "tokens/s"]


def _show_rows(subject: Subject, priced: list[tuple[Candidate, Resolved]], unpriced: list[Unpriced]) -> None:
    width = terminal_width()
    rows = [COMPARISON_HEAD, *(comparison_row(candidate) for candidate, _ in priced)]
    show(
        *headline(subject, shared_options([resolved.options for _, resolved in priced]), priced[0][1], width=width),
        "",
        table(rows, "<>>><<>", width=width),
    )
    for row in unpriced:
        show(paragraph(str(row.error.message), width=width, first=f"  {row.method}: not priced here: "))
    if priced[0][0].verdict is None:
        show("", paragraph(f"no verdict: {priced[0][0].verdict_reason}", width=width))
    show("", paragraph("price one with --method for its ledger; rank them with: vramplan recommend", width=width))
