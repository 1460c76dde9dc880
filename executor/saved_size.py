"""What a run writes to disk, from the plan's own bytes."""

from vramplan.executor.static_check import planned_bytes
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan


def final_bytes(plan: Plan) -> int:
    """The result: every weight after full fine-tuning, else the adapter alone."""
    return planned_bytes(plan.budget, "weights" if trains_base(plan.setup.method) else "adapter")


def checkpoint_bytes(plan: Plan) -> int:
    """One checkpoint: what the result holds, and the optimizer's states to resume from."""
    return final_bytes(plan) + planned_bytes(plan.budget, "optimizer")
