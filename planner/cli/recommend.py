"""``vramplan recommend``: setups ranked with their reasons, and what does not fit with what would change that."""

import argparse
from contextlib import suppress
from typing import Any

from vramplan.planner.candidate import Candidate, Recommendation, Rejected, ResolvedOption
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.commands import plan_command
from vramplan.planner.cli.estimate import verdict_code
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.ledger import method_words, options_text, shared_options, subject_lines
from vramplan.planner.cli.options import add_options, given_options
from vramplan.planner.cli.render import paragraph, show, show_json, table, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.errors import ExitCode, UnsupportedError
from vramplan.planner.recommend import recommend, variant_options
from vramplan.planner.units import format_bytes

ALTERNATIVES_SHOWN = 6
HEAD = ["", "method", "checkpointing", "optimizer", "batch", "process", "up to", "headroom", "verdict"]
ALIGN = "><<<>>>><"


def add_parser(subparsers: Any) -> None:
    """Register ``recommend``."""
    parser = subparsers.add_parser(
        "recommend", description="Rank full fine-tuning, LoRA and QLoRA with and without what saves memory."
    )
    add_options(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print the recommendation; the exit code is the best verdict."""
    given = given_options(args)
    subject = subjects.look_up(args)
    recommendation = recommend(
        subject.model,
        subject.device,
        given,
        lambda resolved: subjects.price(subject, resolved, with_tensors=False),
        num_examples=subject.num_examples,
        rows=subject.rows,
    )
    if args.json:
        show_json(recommendation_object(recommendation))
    else:
        show(recommendation_text(recommendation, subject, args, width=terminal_width()))
    candidates = [*recommendation.ranked, *(rejected.candidate for rejected in recommendation.rejected)]
    return verdict_code(candidates, device_named=subject.device_named)


def recommendation_object(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON values: estimate objects, each with its reasons or what it lacks."""
    return {
        "ranked": [
            estimate_object(candidate) | {"reasons": list(reasons)}
            for candidate, reasons in zip(recommendation.ranked, recommendation.reasons, strict=True)
        ],
        "rejected": [
            estimate_object(rejected.candidate) | {"lacks_bytes": rejected.lacks_bytes, "would_fit": rejected.would_fit}
            for rejected in recommendation.rejected
        ],
        "unpriced": list(recommendation.unpriced),
    }


def recommendation_text(
    recommendation: Recommendation, subject: Subject, args: argparse.Namespace, *, width: int
) -> str:
    """The recommendation for a terminal."""
    blocks = [
        *subject_lines(subject.model, subject.device, subject.device_note, width=width),
        options_text(_options(given_options(args), subject), width=width),
        "",
    ]
    if recommendation.ranked:
        blocks += [_ranked(recommendation, width), "", _why(recommendation, width)]
    else:
        blocks.append("nothing fits")
    if recommendation.rejected:
        blocks += ["", _rejected(recommendation.rejected, width)]
    blocks += [paragraph(f"not priced here: {reason}", width=width) for reason in recommendation.unpriced]
    if recommendation.ranked:
        blocks += [
            "",
            paragraph(f"freeze it: {plan_command(args, recommendation.ranked[0])}", width=width, indent="  "),
        ]
    return "\n".join(blocks)


def _options(given: dict[str, Any], subject: Subject) -> list[ResolvedOption]:
    """The options that all the setups share; what was varied is in the table."""
    rows = []
    for wishes in variant_options(given):
        with suppress(UnsupportedError):
            rows.append(subjects.complete(subject, wishes).options)
    return shared_options(rows)


def _ranked(recommendation: Recommendation, width: int) -> str:
    rows = [HEAD]
    shown = recommendation.ranked[:ALTERNATIVES_SHOWN]
    rows += [_row(str(place), candidate) for place, candidate in enumerate(shown, start=1)]
    text = table(rows, ALIGN, width=width)
    hidden = len(recommendation.ranked) - len(shown)
    return f"{text}\n  and {hidden} more (--json)" if hidden else text


def _row(place: str, candidate: Candidate) -> list[str]:
    setup, budget = candidate.setup, candidate.budget
    return [
        place,
        method_words(setup.method),
        "on" if setup.gradient_checkpointing else "off",
        setup.optimizer,
        f"{setup.micro_batch_size} x {setup.gradient_accumulation_steps}",
        format_bytes(budget.process_bytes),
        format_bytes(budget.high_process_bytes),
        "" if candidate.headroom_bytes is None else format_bytes(candidate.headroom_bytes),
        candidate.verdict or "none",
    ]


def _why(recommendation: Recommendation, width: int) -> str:
    lines = ["why the first:"]
    lines += [paragraph(reason, width=width, first="  - ") for reason in recommendation.reasons[0]]
    return "\n".join(lines)


def _rejected(rejected: tuple[Rejected, ...], width: int) -> str:
    """The nearest miss of each method and optimizer; the rest only count."""
    nearest: dict[tuple[str, str], Rejected] = {}
    for one in sorted(rejected, key=lambda one: one.lacks_bytes):
        setup = one.candidate.setup
        nearest.setdefault((method_words(setup.method), setup.optimizer), one)
    rows = [["does not fit", "checkpointing", "optimizer", "lacks", "would fit with"]]
    for (method, optimizer), one in nearest.items():
        checkpointing = "on" if one.candidate.setup.gradient_checkpointing else "off"
        rows.append([method, checkpointing, optimizer, format_bytes(one.lacks_bytes), one.would_fit or "nothing known"])
    return table(rows, "<<<><", width=width)
