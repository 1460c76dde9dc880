"""What a training loop keeps beside the model: its batches and scalars, and what its names still hold between steps.

    executor, trainer   every micro batch of a step on the device, and one fetched ahead; gradients cleared at the end
                        of the step; outputs die with the frame that computed the loss
    plain               one batch; gradients cleared at the start of the next step; ``outputs`` and ``loss`` stay bound

Sources: transformers/trainer.py (get_batch_samples, compute_loss, _run_epoch); accelerate/data_loader.py (one batch is
fetched ahead); planner/trace/plain_loop.py.
"""

from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.replay import Replayed
from vramplan.planner.memory.static import Group
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.tasks import TOKEN_TYPED
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

BATCH_TENSORS = 3
"""input_ids, labels, attention_mask: int64 (B, S)."""
LOOP_SCALARS = 4
"""Trainer's running loss, this step's, the gradient norm and the label count (transformers/trainer.py)."""


def batch_groups(model: ModelSpec, setup: TrainingSetup, workload: Workload) -> list[Group]:
    """The batches and scalars on the device throughout a step."""
    batches = 1 if setup.loop == "plain" else setup.gradient_accumulation_steps + 1
    held = [Group(numel, 8, count * batches) for numel, count in _batch_tensors(model, setup, workload)]
    held += _packed_extra(setup, workload, batches)
    return held if setup.loop == "plain" else [*held, Group(1, 4, LOOP_SCALARS)]


def _batch_tensors(model: ModelSpec, setup: TrainingSetup, workload: Workload) -> list[tuple[int, int]]:
    """(elements, how many) of one micro batch's int64 tensors, as planner/trace/task_batches.py has them."""
    rows = setup.micro_batch_size
    tokens = rows * workload.sequence_length
    if workload.task == "classification":
        return [(tokens, 3 if model.model_type in TOKEN_TYPED else 2), (rows, 1)]
    if workload.task == "seq2seq":
        return [(tokens, 2), (rows * (workload.target_length or 0), 2)]
    return [(tokens, BATCH_TENSORS)]


def _packed_extra(setup: TrainingSetup, workload: Workload, batches: int) -> list[Group]:
    """Each token's document, and twice where documents end: int32."""
    if not setup.packing:
        return []
    tokens = setup.micro_batch_size * workload.sequence_length
    return [Group(tokens, 4, batches), Group(setup.micro_batch_size + 1, 4, 2 * batches)]


def keeps_gradients(setup: TrainingSetup) -> bool:
    """Whether gradients outlive the step that used them."""
    return setup.loop == "plain"


def held_parts(setup: TrainingSetup, replayed: Replayed) -> dict[Component, int]:
    """What the loop's names hold when a step is over, gradients apart."""
    if setup.loop != "plain":
        return {}
    return {component: size for component, size in replayed.end_parts.items() if component != "gradients"}
