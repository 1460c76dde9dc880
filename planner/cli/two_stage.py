"""``estimate`` and ``plan`` with ``--method two-stage``: two setups priced one after the other, frozen as one plan."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.plan_files import stage_folder, write_plan
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.estimate import headline, verdict_code
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.ledger import ledger_text, method_words, verdict_text
from vramplan.planner.cli.plan import frozen
from vramplan.planner.cli.render import paragraph, show, show_json, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.cli.timing import cost_of, time_text
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.plan import Plan, Stage
from vramplan.planner.resolve import Resolved
from vramplan.planner.stages import with_later_stages
from vramplan.planner.throughput.values import RunCost
from vramplan.planner.two_stage import TWO_STAGE, stage_wishes

Priced = tuple[Resolved, Candidate]


def run_estimate(given: dict[str, Any], subject: Subject, *, usd_per_hour: float | None, as_json: bool) -> ExitCode:
    """Print both budgets; the exit code is the worse verdict."""
    stages = price_stages(given, subject)
    if as_json:
        objects = [
            estimate_object(candidate, resolved.options, _cost(resolved, candidate, usd_per_hour))
            for resolved, candidate in stages
        ]
        show_json({"stages": objects})
    else:
        show(stages_text(subject, stages, usd_per_hour=usd_per_hour, width=terminal_width()))
    return _worse(stages, subject)


def run_plan(args: argparse.Namespace, given: dict[str, Any], subject: Subject) -> ExitCode:
    """Price both, freeze them as one plan and write it; the exit code is the worse verdict.

    Raises:
        UsageError: a sweep is asked for too.
    """
    if args.sweep:
        raise UsageError("--sweep tries ranks of one setup", remedy="leave --sweep out, or use --method lora")
    stages = price_stages(given, subject)
    name = f"{Path(stages[0][0].recipe.output_dir).parent.name}-{TWO_STAGE}"
    path = Path(args.output) if args.output else Path("runs", name, "plan.json")
    plan = freeze_stages(stages, subject, path, given.get("output_dir"))
    write_plan(plan, path, overwrite=args.force)
    if args.json:
        recipes = (plan.recipe, *(stage.recipe for stage in plan.later_stages))
        objects = [
            {"recipe": recipe.model_dump(mode="json")} | estimate_object(candidate, resolved.options)
            for recipe, (resolved, candidate) in zip(recipes, stages, strict=True)
        ]
        show_json({"path": str(path), "fingerprint": plan.fingerprint, "stages": objects})
        return _worse(stages, subject)
    width = terminal_width()
    after = "it names no data, so it cannot be run: plan again with --data FILE"
    if plan.data is not None:
        after = f"next: vramplan run {path}, which trains, merges, and trains on"
    show(
        stages_text(subject, stages, width=width),
        "",
        paragraph(f"wrote {path}, plan {plan.fingerprint[:12]}", width=width),
        paragraph(after, width=width),
    )
    return _worse(stages, subject)


def price_stages(given: dict[str, Any], subject: Subject) -> list[Priced]:
    """Each stage's complete setup and its price. The merged model is as large as the base, so the base prices both."""
    resolved = [subjects.complete(subject, wishes) for wishes in stage_wishes(given, subject.model)]
    return [(each, subjects.price(subject, each)) for each in resolved]


def freeze_stages(stages: list[Priced], subject: Subject, path: Path, output_dir: str | None = None) -> Plan:
    """One plan of the stages.

    Args:
        path: where the plan will be; each stage writes beside it.
        output_dir: where the last stage's result goes, if a person said so.

    Raises:
        UnsupportedError: our executor cannot run one of them.
    """
    plans = [
        frozen(subject, resolved, candidate, stage_folder(path.parent, number) / "plan.json", output_given=False)
        for number, (resolved, candidate) in enumerate(stages, 1)
    ]
    later = []
    for plan, (resolved, candidate) in list(zip(plans, stages, strict=True))[1:]:
        recipe = plan.recipe.model_copy(update={"output_dir": output_dir}) if output_dir else plan.recipe
        later.append(
            Stage(
                workload=resolved.workload,
                setup=resolved.setup,
                recipe=recipe,
                trainable_params=candidate.trainable_params,
                budget=candidate.budget,
                verdict=candidate.verdict,
                program=candidate.provenance,
            )
        )
    return with_later_stages(plans[0], tuple(later))


def stages_text(subject: Subject, stages: list[Priced], *, usd_per_hour: float | None = None, width: int) -> str:
    """Each stage under a heading of its own: what was understood, the ledger, the verdict."""
    blocks: list[str] = []
    for number, (resolved, candidate) in enumerate(stages, 1):
        title = f"stage {number} of {len(stages)}: {method_words(resolved.setup.method)}"
        told = "" if number == 1 else ", on what the stage before left, merged into its base"
        rate = f"learning rate {resolved.recipe.learning_rate:g}"
        steps = resolved.recipe.max_steps
        length = f"max steps {steps}" if steps else f"epochs {resolved.recipe.num_train_epochs:g}"
        head = headline(subject, resolved.options, resolved, width=width)
        blocks += [
            *([""] if blocks else []),
            paragraph(title + told, width=width),
            *(head if number == 1 else head[-1:]),
            paragraph(f"{length}, {rate}", width=width, first="recipe   "),
            "",
            ledger_text(candidate, width=width),
            "",
            time_text(candidate, _cost(resolved, candidate, usd_per_hour), width=width),
            "",
            verdict_text(candidate, width=width, unmeasured_rows=subject.unmeasured_rows),
        ]
    return "\n".join(blocks)


def _cost(resolved: Resolved, candidate: Candidate, usd_per_hour: float | None) -> RunCost:
    return cost_of(candidate, usd_per_hour=usd_per_hour, max_steps=resolved.recipe.max_steps)


def _worse(stages: list[Priced], subject: Subject) -> ExitCode:
    return max(verdict_code([candidate], device_named=subject.device_named) for _, candidate in stages)
