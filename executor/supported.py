"""What this executor runs, of all that can be priced."""

from vramplan.executor.deepspeed_here import check_installed
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.matrix import cell_of, check_cell
from vramplan.planner.plan import Plan
from vramplan.planner.rank_limits import why_not_as_ranks


def check_supported(plan: Plan) -> None:
    """Refuse what this executor does not run.

    Raises:
        UnsupportedError: with the option to change.
    """
    setup = plan.setup
    check_cell(cell_of(setup, plan.workload, model_type=plan.model.model_type, device=plan.device))
    for unwanted, what, flag in (
        (setup.loss == "liger", "the liger loss", "--loss fused or --loss standard"),
        (setup.loop != "executor", f"the {setup.loop} loop", "--loop executor"),
        (setup.world_size == 1 and setup.sharding != "none", f"sharding {setup.sharding}", "--sharding none"),
        (setup.world_size == 1 and setup.offload != "none", f"offload {setup.offload}", "--offload none"),
    ):
        if unwanted:
            raise UnsupportedError(f"{what} can be priced but not run", remedy=f"re-plan with {flag}")
    as_ranks = why_not_as_ranks(setup, plan.device.kind if plan.device else None)
    if as_ranks is not None:
        reason, remedy = as_ranks
        raise UnsupportedError(reason, remedy=remedy if remedy.startswith("vramplan") else f"re-plan with {remedy}")
    check_installed(plan)
