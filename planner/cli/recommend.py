"""``vramplan recommend``: the best setup with its reasons, what none beats, and what would make the rest fit."""

import argparse
from typing import Any, get_args

from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.data_text import data_object
from vramplan.planner.cli.estimate import verdict_code
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.options import add_options, given_options
from vramplan.planner.cli.parsing import number, one_of, whole_number
from vramplan.planner.cli.recommend_text import recommendation_text, workload_length
from vramplan.planner.cli.render import show, show_json, terminal_width
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.objectives import PRIORITIES, Complexity, Objectives
from vramplan.planner.recommend import recommend
from vramplan.planner.recommendation import Recommendation


def add_parser(subparsers: Any) -> None:
    """Register ``recommend``."""
    parser = subparsers.add_parser(
        "recommend", description="Find the best setup for a model, a device and data, and say why."
    )
    add_options(parser)
    parser.add_argument("--prefer", type=priorities, metavar="WHAT", help=f"{', '.join(PRIORITIES)}; several by commas")
    parser.add_argument(
        "--complexity", type=one_of(*get_args(Complexity)), metavar="HOW", help="of the task: simple, moderate, complex"
    )
    parser.add_argument("--num-tasks", type=whole_number, metavar="N", help="tasks served from one base model")
    rare = parser.rare
    rare.add_argument("--keep-knowledge", action="store_true", help="what the model knew must not be lost")
    rare.add_argument("--must-merge", action="store_true", help="the result must be one model")
    rare.add_argument(
        "--latency-budget", type=number, metavar="SHARE", help="a forward pass may be slower by, e.g. 0.05"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Print the recommendation; the exit code is the best verdict."""
    given = given_options(args)
    objectives = _objectives(args)
    subject = subjects.look_up(args)
    recommendation = recommend(
        subject.model,
        subject.device,
        given,
        lambda resolved: subjects.price(subject, resolved, with_tensors=False),
        num_examples=subject.num_examples,
        rows=subject.rows,
        objectives=objectives,
        bounds=subjects.bounds_of(subject, given),
    )
    if args.json:
        row_lengths = data_object(subject, workload_length(recommendation))
        show_json(recommendation_object(recommendation) | {"row_lengths": row_lengths})
    else:
        show(recommendation_text(recommendation, subject, args, width=terminal_width()))
    candidates = [*recommendation.ranked, *(rejected.candidate for rejected in recommendation.rejected)]
    return verdict_code(candidates, device_named=subject.device_named)


def recommendation_object(recommendation: Recommendation) -> dict[str, Any]:
    """The recommendation as JSON values: estimate objects, each with its reasons or what it lacks."""
    ranked = zip(
        recommendation.ranked, recommendation.reasons, recommendation.tiers, recommendation.options, strict=True
    )
    plain = recommendation.model_dump(
        mode="json", include={"ruled_out", "unpriced", "suggestions", "objectives", "searched"}
    )
    return {
        "ranked": [
            estimate_object(candidate) | {"reasons": list(reasons), "evidence_tier": tier, "made_by": options}
            for candidate, reasons, tier, options in ranked
        ],
        "front": [
            estimate_object(each.candidate) | {"evidence_tier": each.evidence_tier, "made_by": each.options}
            for each in recommendation.front
        ],
        "rejected": [
            estimate_object(rejected.candidate) | {"lacks_bytes": rejected.lacks_bytes, "would_fit": rejected.would_fit}
            for rejected in recommendation.rejected
        ],
    } | plain


def _objectives(args: argparse.Namespace) -> Objectives:
    named = ("prefer", "complexity", "num_tasks", "latency_budget")
    given = {name: vars(args)[name] for name in named if vars(args)[name] is not None}
    for name, least in (("num_tasks", 1), ("latency_budget", 0)):
        if given.get(name, least) < least:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} {given[name]} is not possible", remedy=f"{flag} is at least {least}")
    return Objectives(**given, keep_knowledge=args.keep_knowledge, must_merge=args.must_merge)


def priorities(text: str) -> tuple[str, ...]:
    """A type for priorities with commas between them."""
    read = one_of(*PRIORITIES)
    return tuple(dict.fromkeys(read(part.strip()) for part in text.split(",")))
