"""The stages of a choice, each a setup with a price of its own: one, or the two of ``--method two-stage``."""

from collections.abc import Mapping
from typing import Any

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.ledger import method_words
from vramplan.planner.cli.subject import Subject, complete, price
from vramplan.planner.resolve import Resolved
from vramplan.planner.two_stage import TWO_STAGE, stage_wishes

Stage = tuple[Resolved, Candidate]


def first_setup(subject: Subject, given: Mapping[str, Any]) -> Resolved:
    """The only setup of a choice, or its first stage's."""
    staged = given.get("method") == TWO_STAGE
    return complete(subject, stage_wishes(given, subject.model)[0] if staged else given)


def priced_stages(subject: Subject, given: Mapping[str, Any]) -> list[Stage]:
    """Each stage's complete setup and its price. The merged model is as large as the base, which prices both."""
    wishes = stage_wishes(given, subject.model) if given.get("method") == TWO_STAGE else (given,)
    resolved = [complete(subject, each) for each in wishes]
    return [(each, price(subject, each)) for each in resolved]


def larger(stages: list[Stage]) -> Stage:
    """The stage that decides whether all of them fit."""
    return max(stages, key=lambda stage: stage[1].budget.high_process_bytes)


def in_words(stages: list[Stage]) -> tuple[str, ...]:
    """A line for each of several stages; nothing is said of one alone."""
    if len(stages) == 1:
        return ()
    shown = larger(stages)
    return tuple(
        f"stage {number} of {len(stages)}: {method_words(resolved.setup.method)}; {candidate.verdict_reason}"
        f"{', the one shown here' if candidate is shown[1] else ''}"
        for number, (resolved, candidate) in enumerate(stages, 1)
    )
