"""Which priced setups our executor does not run, and why."""

from vramplan.planner.device import Device
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.rank_limits import why_not_as_ranks
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Task

LOADED_WHOLE = frozenset(("gemma3", "gemma3n", "gemma4", "gemma4_unified"))
"""Multimodal types AutoModelForCausalLM loads whole (transformers' MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)."""


def why_not_runnable(
    setup: TrainingSetup, task: Task = "causal-lm", model: ModelSpec | None = None, device: Device | None = None
) -> str | None:
    """The reason our executor cannot run a setup, or None when it can."""
    if model is not None and model.quantization is not None:
        return f"our executor loads no checkpoint stored as {model.quantization}: name an unquantised copy of it"
    multimodal = model is not None and model.architecture.endswith("ForConditionalGeneration")
    if model is not None and multimodal and task == "causal-lm" and model.model_type not in LOADED_WHOLE:
        return f"our executor loads models with AutoModelForCausalLM, which does not know {model.architecture}"
    if setup.loss == "liger":
        return "trl's trainer refuses Liger's loss; --loss fused does the same job there"
    stands_in_the_way = why_not_as_ranks(setup, device.kind if device else None)
    if stands_in_the_way is not None:
        return stands_in_the_way[0]
    if setup.loop != "executor":
        return f"the {setup.loop} loop is somebody else's; --loop executor is ours"
    return None
