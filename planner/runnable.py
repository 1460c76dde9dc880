"""Which priced setups our executor does not run, and why."""

from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Task


def why_not_runnable(setup: TrainingSetup, task: Task = "causal-lm") -> str | None:
    """The reason our executor cannot run a setup, or None when it can."""
    if task != "causal-lm":
        return f"our executor trains causal language models alone; --task {task} is priced"
    if setup.loss == "liger":
        return "trl's trainer refuses Liger's loss; --loss fused does the same job there"
    if setup.loop != "executor":
        return f"the {setup.loop} loop is somebody else's; --loop executor is ours"
    return None
