"""A finished run as what comes after it needs it: the plan that was really carried out, and where the result lies."""

from pathlib import Path
from typing import NamedTuple

from vramplan.executor.runs import PastRun, named_run, run_name
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.adapters.safetensors_headers import INDEX, ONE_FILE
from vramplan.planner.errors import RunError
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.values import Value

ADAPTER_WEIGHTS, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


class FinishedRun(NamedTuple):
    """One run that left a result."""

    name: str
    folder: Path
    plan: Plan
    """With the setup that was used, where the run went down the ladder."""
    result: Path
    """The folder of the adapter, or of the whole model."""

    @property
    def whole(self) -> bool:
        """The result is a model of its own, not an adapter on one."""
        return trains_base(self.plan.setup.method)

    @property
    def tuned(self) -> "Tuned":
        """The run as a child process is told of it."""
        plan_path = self.folder.absolute() / "plan.json"
        return Tuned(
            name=self.name, plan_path=str(plan_path), setup=self.plan.setup, result=str(self.result.absolute())
        )


class Tuned(Value):
    """A finished run on the wire."""

    name: str
    plan_path: str
    setup: TrainingSetup
    """As used, where the run went down the ladder."""
    result: str

    def plan(self) -> Plan:
        """The plan that was really carried out.

        Raises:
            PlanError: the plan file cannot be trusted.
        """
        return read_plan(Path(self.plan_path)).model_copy(update={"setup": self.setup})


def finished_run(text: str) -> FinishedRun:
    """A finished run by its folder, its plan file or its name under runs/.

    Raises:
        UsageError: there is no such run.
        PlanError: its plan cannot be trusted.
        RunError: it has not finished, or its result is gone.
    """
    found = named_run(text)
    folder = Path(found.folder)
    name = run_name(folder)
    if found.status != "done":
        raise RunError(f"{name} has not finished: {found.status}", remedy=_remedy(found))
    used = found.report.setup if found.report is not None else None
    plan = found.plan if used is None else found.plan.model_copy(update={"setup": used})
    result = Path(plan.recipe.output_dir)
    whole = trains_base(plan.setup.method)
    wanted = [(ONE_FILE, INDEX)] if whole else [(ADAPTER_WEIGHTS,), (ADAPTER_CONFIG,)]
    for names in wanted:
        if not any((result / each).is_file() for each in names):
            raise RunError(
                f"{name} has finished, but {result} holds no {names[0]}",
                remedy="start in the folder the run was started in, or run it again with --start-over",
            )
    return FinishedRun(name, folder, plan, result)


def _remedy(found: PastRun) -> str:
    plan_path = Path(found.folder) / "plan.json"
    if found.status == "running":
        return "wait for it, or stop it"
    return f"vramplan run {plan_path}" + (" --resume" if found.checkpoint_step is not None else "")
