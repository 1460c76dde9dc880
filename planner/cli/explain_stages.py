"""``vramplan explain`` of a plan of several stages: each one's budget, beside its own report where it has one."""

from pathlib import Path

from vramplan.planner.adapters.plan_files import read_plan, read_report, stage_folder
from vramplan.planner.cli.render import paragraph, show, show_json, terminal_width
from vramplan.planner.errors import ExitCode, StalePlanError
from vramplan.planner.explain import Explanation, explain
from vramplan.planner.plan import Plan
from vramplan.planner.stages import later_plan


def explain_stages(plan: Plan, path: Path, *, as_json: bool) -> ExitCode:
    """Print every stage of a plan.

    Args:
        path: the plan's own; reports lie beside it.

    Raises:
        StalePlanError: a stage that was run is not the one this plan holds.
    """
    from vramplan.planner.cli.explain import explanation_object, explanation_text

    explanations = [explain_stage(plan, path.parent, number) for number in range(1, 2 + len(plan.later_stages))]
    if as_json:
        show_json({"stages": [explanation_object(explanation) for explanation in explanations]})
        return ExitCode.OK
    width = terminal_width()
    for number, explanation in enumerate(explanations, 1):
        told = "" if number == 1 else ", on what the stage before left, merged into its base"
        show(
            *([""] if number > 1 else []),
            paragraph(f"stage {number} of {len(explanations)}{told}", width=width),
            explanation_text(explanation, width=width),
        )
    return ExitCode.OK


def explain_stage(plan: Plan, folder: Path, number: int) -> Explanation:
    """One stage's budget, and its report where it was run."""
    place = stage_folder(folder, number)
    stage = plan if number == 1 else _begun(plan, place, number)
    report = place / "report.json"
    return explain(stage, read_report(report) if report.exists() else None)


def _begun(plan: Plan, place: Path, number: int) -> Plan:
    """A later stage's plan: on the merged model once it has begun, on the base that stands in for it before."""
    expected = later_plan(plan, number)
    if not (place / "plan.json").exists():
        return expected
    found = read_plan(place / "plan.json")
    if (found.setup, found.recipe, found.budget) != (expected.setup, expected.recipe, expected.budget):
        raise StalePlanError(
            f"{place} holds a run of another plan",
            remedy="explain that one by itself, or run this plan with --start-over",
        )
    return found
