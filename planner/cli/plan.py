"""``vramplan plan``: freeze one setup into a plan file that ``vramplan run`` executes."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.plan_files import freeze_plan, write_plan
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.data_text import data_lines, data_object
from vramplan.planner.cli.estimate import verdict_code
from vramplan.planner.cli.estimate_json import estimate_object
from vramplan.planner.cli.ledger import ledger_text, options_text, subject_lines, verdict_text
from vramplan.planner.cli.options import RECIPE, add_options, given_options
from vramplan.planner.cli.render import paragraph, show, show_json, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.errors import ExitCode, UnsupportedError
from vramplan.planner.plan import Plan
from vramplan.planner.resolve import Resolved, slug
from vramplan.planner.two_stage import TWO_STAGE


def add_parser(subparsers: Any) -> None:
    """Register ``plan``."""
    parser = subparsers.add_parser("plan", description="Freeze one setup into a plan file.")
    add_options(parser, recipe=True)
    parser.add_argument("-o", "--output", metavar="FILE", help="the plan file; runs/<model and method>/plan.json")
    parser.add_argument("--sweep", action="store_true", help="a plan for each of several ranks and alphas; -o a folder")
    parser.add_argument("--force", action="store_true", help="replace a plan file that exists")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Price, freeze, write; the exit code is the verdict, the file is written whatever it is."""
    given = given_options(args)
    subject = subjects.look_up(args)
    if given.get("method") == TWO_STAGE:
        from vramplan.planner.cli.two_stage import run_plan

        return run_plan(args, given, subject)
    if args.sweep:
        from vramplan.planner.cli.sweep import run_sweep

        return run_sweep(args, given, subject)
    resolved = subjects.complete(subject, given)
    path = Path(args.output) if args.output else Path("runs", slug(subject.model, resolved.setup.method), "plan.json")
    candidate = subjects.price(subject, resolved)
    plan = frozen(subject, resolved, candidate, path, output_given="output_dir" in given)
    write_plan(plan, path, overwrite=args.force)
    if args.json:
        planned = {"path": str(path), "fingerprint": plan.fingerprint, "recipe": plan.recipe.model_dump(mode="json")}
        row_lengths = data_object(subject, resolved.workload.sequence_length)
        show_json(planned | estimate_object(candidate, resolved.options) | {"row_lengths": row_lengths})
    else:
        show(plan_text(plan, subject, resolved, candidate, path, width=terminal_width()))
    return verdict_code([candidate], device_named=subject.device_named)


def frozen(subject: Subject, resolved: Resolved, candidate: Candidate, path: Path, *, output_given: bool) -> Plan:
    """The plan of a priced setup. The result goes to ``model`` beside the plan unless another place was given.

    Raises:
        UnsupportedError: our executor cannot run this setup.
    """
    if not candidate.runnable:
        raise UnsupportedError(
            f"this setup can be priced but not run: {candidate.not_runnable_because}",
            remedy="use --loop executor, or price it with: vramplan estimate",
        )
    recipe = resolved.recipe
    if not output_given:
        recipe = recipe.model_copy(update={"output_dir": str(path.parent / "model")})
    return freeze_plan(candidate, subject.model, recipe, subject.data.planned if subject.data else None)


def plan_text(plan: Plan, subject: Subject, resolved: Resolved, candidate: Candidate, path: Path, *, width: int) -> str:
    """What the plan holds, where it is, and what to do next."""
    recipe_names = {option.name for option in RECIPE}
    setup = [option for option in resolved.options if option.name not in recipe_names]
    length = (
        f"max steps {plan.recipe.max_steps}" if plan.recipe.max_steps else f"epochs {plan.recipe.num_train_epochs:g}"
    )
    blocks = [
        *subject_lines(subject.model, subject.device, subject.device_note, width=width),
        *data_lines(
            subject, resolved.workload.sequence_length, completion_only=resolved.recipe.completion_only, width=width
        ),
        options_text(setup, width=width),
        paragraph(
            f"{length}, learning rate {plan.recipe.learning_rate:g} ({plan.recipe.lr_scheduler_type}), "
            f"seed {plan.recipe.seed}, output in {plan.recipe.output_dir}",
            width=width,
            first="recipe   ",
        ),
        "",
        ledger_text(candidate, width=width),
        "",
        verdict_text(candidate, width=width, unmeasured_rows=subject.unmeasured_rows),
        "",
        paragraph(f"wrote {path}, plan {plan.fingerprint[:12]}", width=width),
    ]
    if plan.data is None:
        blocks.append(paragraph("it names no data, so it cannot be run: plan again with --data FILE", width=width))
    elif candidate.verdict == "no":
        blocks.append(paragraph("it does not fit; what would: vramplan recommend", width=width))
    else:
        blocks.append(paragraph(f"next: vramplan run {path}", width=width))
    return "\n".join(blocks)
