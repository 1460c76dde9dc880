"""A plan's later stages, each as a plan of its own."""

from vramplan.planner.plan import Plan, PlannedModel, Stage
from vramplan.planner.plan_hash import fingerprint_of


def later_plan(plan: Plan, number: int, model: PlannedModel | None = None) -> Plan:
    """A later stage as a plan of its own, with a fingerprint of its own.

    Args:
        number: 2 for the first of ``plan.later_stages``.
        model: the merged result it begins with; without one, the plan's base stands in for it: as large, to the byte.
    """
    stage = plan.later_stages[number - 2]
    begins_with = (model or plan.model).model_copy(update={"trainable_params": stage.trainable_params})
    changes = {name: getattr(stage, name) for name in ("workload", "setup", "recipe", "budget", "verdict", "program")}
    later = plan.model_copy(update={**changes, "model": begins_with, "later_stages": ()})
    return later.model_copy(update={"fingerprint": fingerprint_of(later.model_dump(mode="json"))})


def with_later_stages(plan: Plan, stages: tuple[Stage, ...]) -> Plan:
    """The plan, going on with these stages; its fingerprint covers them."""
    whole = plan.model_copy(update={"later_stages": stages})
    return whole.model_copy(update={"fingerprint": fingerprint_of(whole.model_dump(mode="json"))})
