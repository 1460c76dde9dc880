"""What a plan under DeepSpeed's ZeRO asks of this machine, and how a stopped run of it goes on."""

import importlib.util

from vramplan.planner.deepspeed import stage_of
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.plan import Plan


def check_installed(plan: Plan) -> None:
    """Whether DeepSpeed is here, where a plan needs it.

    Raises:
        UnsupportedError: it is not.
    """
    if stage_of(plan.setup) and importlib.util.find_spec("deepspeed") is None:
        raise UnsupportedError(
            f"--sharding {plan.setup.sharding} runs under DeepSpeed, which is not installed",
            remedy="pip install deepspeed, or re-plan with --sharding fsdp",
        )


def how_to_go_on(plan: Plan) -> str:
    """With a run that was stopped."""
    if stage_of(plan.setup):
        return "begin it again with: vramplan run PLAN"
    return "go on from its last checkpoint with: vramplan run PLAN --resume"
