"""What a task adds to the tensors of an adapter: a classifier's head, copied, its copy trained."""

from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.groups import Group
from vramplan.planner.methods import trains_base
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.tasks import CLASSIFIER, is_classification_head
from vramplan.planner.training_setup import TrainingSetup


def head_copies(model: ModelSpec, setup: TrainingSetup) -> list[Group]:
    """The trained copies PEFT makes of a classifier's head (modules_to_save; planner/trace/task_adapter.py)."""
    if trains_base(setup.method) or not model.architecture.endswith(CLASSIFIER):
        return []
    size = BYTES[setup.precision.adapter_dtype]
    return [
        Group(weight.numel, size, weight.count, decays=not weight.name.endswith("bias"), shape=weight.shape)
        for weight in model.weights
        if is_classification_head(weight.name)
    ]
