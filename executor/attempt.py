"""What one worker process is asked to do with a plan: one JSON object on its command line."""

from pathlib import Path
from typing import Literal

from vramplan.planner.plan import Plan
from vramplan.planner.report import RungTaken
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.values import Value

MEASURED_STEP = 3
"""Step 1 creates the optimizer's states and step 2 warms a profiler, so step 3 is the first that tells the truth."""
SCRATCH = "verify"
"""Where verification saves, inside the run folder; removed afterwards."""


class Attempt(Value):
    """One process's share of a run."""

    goal: Literal["run", "verify"] = "run"
    setup: TrainingSetup | None = None
    """In place of the plan's, once the ladder was taken."""
    ladder: tuple[RungTaken, ...] = ()
    resume_from: str | None = None
    """A complete checkpoint's folder."""
    track: bool = False
    accept: tuple[str, ...] = ()
    """Names of differences that a person accepts (``--allow-drift``)."""
    strict_budget: bool = False
    """Forbid more device memory than the plan's upper bound."""

    def plan_of(self, plan: Plan, run_folder: Path) -> Plan:
        """The plan this process carries out; it keeps the fingerprint of the plan it came from."""
        changed = plan.model_copy(update={"setup": self.setup or plan.setup})
        if self.goal == "run":
            return changed
        steps = min(plan.recipe.max_steps or MEASURED_STEP, MEASURED_STEP)
        recipe = {"max_steps": steps, "output_dir": str(run_folder / SCRATCH), "save_steps": None, "eval_steps": None}
        return changed.model_copy(update={"recipe": plan.recipe.model_copy(update=recipe)})
