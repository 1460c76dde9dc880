"""Bytes an optimizer step moves, and the kernels it starts.

fused AdamW, 8-bit, Lion   parameters, gradients and states read, parameters and states written, once
foreach AdamW              one pass an operation: 20 reads or writes of every parameter
                           (torch/optim/adamw.py, _multi_tensor_adamw)
SGD without momentum       parameters read and written, gradients read
Adafactor                  transformers' own loop, in fp32: about 12 passes (transformers/optimization.py)
clipping                   gradients read for their norm, then read and written to scale them
                           (torch/nn/utils/clip_grad.py)
accumulation               each later micro batch's gradient read, and the kept one read and written
"""

from typing import NamedTuple

from vramplan.planner.device import Route
from vramplan.planner.memory import optimizer
from vramplan.planner.memory.groups import Group, total_bytes
from vramplan.planner.training_setup import TrainingSetup

FOREACH_ADAMW_PASSES = 20
SGD_PASSES = 3
ADAFACTOR_PASSES = 12
CLIP_PASSES = 3
ACCUMULATION_PASSES = 3
KERNELS_A_TENSOR = {"adamw_8bit": 1.0, "paged_adamw_8bit": 1.0, "lion_8bit": 1.0, "adafactor": 20.0}
"""bitsandbytes starts one kernel a tensor and Adafactor about twenty; the others take tensors together."""
_TOGETHER = 0.1


class OptimizerTraffic(NamedTuple):
    """Of one optimizer step; accumulation is of the whole step too."""

    moved_bytes: int
    accumulated_bytes: int
    """Moved by adding up the gradients of the micro batches."""
    kernels: int


def optimizer_traffic(setup: TrainingSetup, trainable: list[Group], route: Route) -> OptimizerTraffic:
    """What the step after the last micro batch moves."""
    parameters = total_bytes(trainable, 1)
    tensors = sum(group.count for group in trainable)
    name = setup.optimizer
    if name == "adamw_torch" and route == "cuda":
        moved = FOREACH_ADAMW_PASSES * parameters
    elif name == "sgd":
        moved = SGD_PASSES * parameters
    elif name == "adafactor":
        moved = ADAFACTOR_PASSES * 4 * sum(group.numel * group.count for group in trainable)
    else:
        states = optimizer.state_groups(name, trainable, route, loop=setup.loop)
        managed = optimizer.managed_groups(name, trainable, route, loop=setup.loop)
        moved = 3 * parameters + 2 * total_bytes([*states, *managed], 1)
    later = setup.gradient_accumulation_steps - 1
    return OptimizerTraffic(
        moved_bytes=moved + CLIP_PASSES * parameters,
        accumulated_bytes=ACCUMULATION_PASSES * parameters * later,
        kernels=round(tensors * KERNELS_A_TENSOR.get(name, _TOGETHER)) + 1,
    )
