"""A recommendation for a terminal: the answer first, then why, where to start, what else, and what does not fit."""

import argparse
from collections.abc import Mapping
from typing import Any

from vramplan.planner.candidate import Candidate, ResolvedOption
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.commands import plan_command
from vramplan.planner.cli.data_text import data_lines
from vramplan.planner.cli.ledger import method_words, options_text, sharing_words, subject_lines
from vramplan.planner.cli.render import items, paragraph, table
from vramplan.planner.cli.subject import Subject
from vramplan.planner.cli.timing import seconds_words
from vramplan.planner.recommendation import Recommendation, Rejected
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes

HEAD = ["", "setup", "ckpt", "batch", "up to", "headroom", "s a step", "verdict", "evidence"]
ALIGN = "><<>>>><<"
EVIDENCE = ("as full", "near full", "below full", "far below")
"""What is known of how well it learns, beside full fine-tuning; see ``planner.evidence``."""
_VARIED = frozenset(
    (
        "method",
        "gradient_checkpointing",
        "optimizer",
        "sharding",
        "offload",
        "micro_batch",
        "gradient_accumulation_steps",
        "sequences_per_step",
        "rank",
        "alpha",
        "loss",
    )
)
"""Options that the table or the answer's own line has."""


def recommendation_text(found: Recommendation, subject: Subject, args: argparse.Namespace, *, width: int) -> str:
    """Everything a person reads; ``--json`` has the rest."""
    blocks = [
        *subject_lines(subject.model, subject.device, subject.device_note, width=width),
        *data_lines(subject, workload_length(found), completion_only=True, width=width),
        "",
    ]
    if found.ranked:
        blocks += [*_answer(found, width), "", _choices(found, width)]
    else:
        blocks.append("nothing fits")
    if found.rejected:
        blocks += ["", _rejected(found.rejected, width)]
    blocks += [paragraph(why, width=width, first="ruled out  ") for why in found.ruled_out]
    unpriced = [reason for reason in found.unpriced if _is_main(reason)]
    blocks += [paragraph(reason, width=width, first="not priced here  ") for reason in unpriced]
    if found.ranked:
        blocks += ["", options_text(_options(found.options[0], subject), width=width)]
        blocks += ["", *_next(found, args, width)]
    return "\n".join(blocks)


def workload_length(found: Recommendation) -> int | None:
    """The sequence length the answer is for."""
    priced = [*found.ranked, *(each.candidate for each in found.rejected)]
    return priced[0].workload.sequence_length if priced else None


def _is_main(reason: str) -> bool:
    return reason.partition(":")[0] in ("full", "lora", "qlora")


def _answer(found: Recommendation, width: int) -> list[str]:
    """The first setup, why, and where to start with it."""
    first = found.ranked[0]
    setup = first.setup
    parts = [
        method_words(setup.method),
        *sharing_words(setup),
        f"checkpointing {'on' if setup.gradient_checkpointing else 'off'}",
        f"micro batch {setup.micro_batch_size} x {setup.gradient_accumulation_steps}",
        setup.optimizer,
        f"{setup.loss} loss",
        f"up to {format_bytes(first.budget.high_process_bytes)}",
    ]
    lines = [items(parts, width=width, first="take     ")]
    lines += [
        paragraph(reason, width=width, first="why      - " if number == 0 else "         - ")
        for number, reason in enumerate(found.reasons[0])
    ]
    lines += [
        paragraph(
            f"{each.name} {each.value}: {each.because} ({each.source})",
            width=width,
            first="start    - " if number == 0 else "         - ",
        )
        for number, each in enumerate(found.suggestions)
    ]
    return lines


def _choices(found: Recommendation, width: int) -> str:
    """The best of each method, numbered, then the rest of the front."""
    rows = [HEAD]
    ranked = zip(found.ranked, found.tiers, strict=True)
    rows += [_row(str(place), candidate, tier) for place, (candidate, tier) in enumerate(ranked, start=1)]
    more = [each for each in found.front if each.candidate not in found.ranked]
    rows += [_row("or", each.candidate, each.evidence_tier) for each in more]
    text = table(rows, ALIGN, width=width, spare=("headroom",))
    if more:
        note = "or: none is better in memory, time and evidence together; numbered: the best of each method"
        text += "\n" + paragraph(note, width=width, first="  ")
    return text


def _row(place: str, candidate: Candidate, tier: int) -> list[str]:
    setup, budget, time = candidate.setup, candidate.budget, candidate.time
    return [
        place,
        _setup_words(setup),
        "on" if setup.gradient_checkpointing else "off",
        f"{setup.micro_batch_size} x {setup.gradient_accumulation_steps}",
        format_bytes(budget.high_process_bytes),
        "" if candidate.headroom_bytes is None else format_bytes(candidate.headroom_bytes),
        "?" if time is None else seconds_words(time),
        candidate.verdict or "none",
        EVIDENCE[min(tier, len(EVIDENCE) - 1)],
    ]


def _setup_words(setup: TrainingSetup) -> str:
    """The method, and what is not as everywhere."""
    optimizer = [] if setup.optimizer.startswith("adamw_torch") else [setup.optimizer]
    return ", ".join([method_words(setup.method), *sharing_words(setup), *optimizer])


def _rejected(rejected: tuple[Rejected, ...], width: int) -> str:
    rows = [["does not fit", "optimizer", "lacks", "would fit with"]]
    for one in rejected:
        setup = one.candidate.setup
        rows.append(
            [
                ", ".join([method_words(setup.method), *sharing_words(setup)]),
                setup.optimizer,
                format_bytes(one.lacks_bytes),
                one.would_fit or "nothing known",
            ]
        )
    return table(rows, "<<><", width=width)


def _options(given: Mapping[str, Any], subject: Subject) -> list[ResolvedOption]:
    """What the answer was found under; what was varied is said above."""
    return [option for option in subjects.complete(subject, given).options if option.name not in _VARIED]


def _next(found: Recommendation, args: argparse.Namespace, width: int) -> list[str]:
    first = found.ranked[0]
    command = plan_command(args, found.options[0])
    if not first.runnable:
        return [paragraph(f"priced only: {first.not_runnable_because}", width=width)]
    lines = [paragraph(f"freeze it: {command}", width=width, indent="  ")]
    if hasattr(first.setup.method, "r"):
        lines.insert(0, paragraph(f"try several ranks: {command} --sweep", width=width, indent="  "))
    return lines
