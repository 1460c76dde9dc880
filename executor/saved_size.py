"""What a run writes to disk, from the plan's own bytes."""

from vramplan.executor.static_check import planned_bytes
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan


def final_bytes(plan: Plan) -> int:
    """The result: every weight after full fine-tuning, else the adapter alone."""
    return _whole(plan, planned_bytes(plan.budget, "weights" if trains_base(plan.setup.method) else "adapter"))


def checkpoint_bytes(plan: Plan) -> int:
    """One checkpoint: what the result holds, and the optimizer's states to resume from."""
    return final_bytes(plan) + _whole(plan, planned_bytes(plan.budget, "optimizer"))


def _whole(plan: Plan, bytes_of_a_rank: int) -> int:
    """What is sharded is gathered to be saved."""
    return bytes_of_a_rank * (plan.setup.world_size if plan.setup.sharding == "fsdp" else 1)
