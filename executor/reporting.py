"""Where a run's losses are sent beside its own events: ``report_to``, in Trainer's own words, with what it needs."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.training_setup import TrainingRecipe

_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",)}
"""Any one of these will do (transformers/integrations/integration_utils.py)."""


def check_reporting(recipe: TrainingRecipe) -> None:
    """The package that writes the reports is here.

    Raises:
        UnsupportedError: it is not.
    """
    names = _PACKAGES.get(recipe.report_to, ())
    if names and not any(find_spec(name) for name in names):
        raise UnsupportedError(
            f"report_to {recipe.report_to} needs the package {names[0]}, which is not installed",
            remedy=f"pip install {names[0]}, or plan with --report-to none",
        )


def reporting_environment(recipe: TrainingRecipe, inherited: Mapping[str, str]) -> dict[str, str]:
    """Variables of the reporters: files go beside the run's output where nobody said otherwise, and what would hook
    into gradients or send weights away stays off."""
    beside = str(Path(recipe.output_dir).absolute().parent)
    if recipe.report_to == "tensorboard":
        return {"TENSORBOARD_LOGGING_DIR": inherited.get("TENSORBOARD_LOGGING_DIR", f"{beside}/tensorboard")}
    if recipe.report_to == "wandb":
        return {"WANDB_DIR": inherited.get("WANDB_DIR", beside), "WANDB_WATCH": "false", "WANDB_LOG_MODEL": "false"}
    return {}
