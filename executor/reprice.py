"""The planner's price of another setup of a plan, before that setup is tried."""

from vramplan.planner.errors import VramplanError
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.plan import Plan
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload


def reprice(plan: Plan, workload: Workload, setup: TrainingSetup) -> MemoryBudget | None:
    """Price a workload and setup on the plan's model and device; None where nobody can (the model is out of reach, or
    there is no memory program and none can be traced)."""
    if (workload, setup) == (plan.workload, plan.setup):
        return plan.budget
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.estimate import estimate

    try:
        model = resolve_model(plan.model.path or plan.model.repo_id, revision=plan.model.revision)
        return estimate(model, workload, setup, plan.device, with_tensors=False).budget
    except VramplanError:
        return None
