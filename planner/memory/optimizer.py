"""Optimizer states, and what a step allocates on top of them.

    adamw_torch         two states a parameter in its own dtype; on CUDA the foreach path holds one more copy (the
                        square roots) of each parameter group at once; on the CPU one parameter at a time
    adamw_torch_fused   the same states and a 4-byte step counter on the device; no temporaries
    adamw_8bit          a byte per state and an fp32 per block of 256; tensors under 4096 elements, and embeddings
                        under Trainer, keep fp32 states
    sgd                 nothing

Sources: torch/optim/adamw.py (_multi_tensor_adamw, _single_tensor_adamw), torch/optim/adam.py (_init_group: where the
step lives); bitsandbytes/optim/optimizer.py (get_state_buffer, init_state, percentile and blockwise states);
transformers/trainer_optimizer.py (the embedding override for 8-bit optimizers).
"""

from vramplan.planner.device import Route
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory.static import Group, round_up, total_bytes
from vramplan.planner.training_setup import Optimizer

EIGHT_BIT_MINIMUM = 4096
"""min_8bit_size, bitsandbytes/optim/optimizer.py."""
EIGHT_BIT_BLOCK = 256
QUANTILE_MAP_BYTES = 256 * 4
SCALAR_BYTES = 4
PRICED: tuple[Optimizer, ...] = ("adamw_torch", "adamw_torch_fused", "adamw_8bit", "sgd")


def state_groups(optimizer: Optimizer, trainable: list[Group], route: Route) -> list[Group]:
    """The optimizer's tensors, after its first step."""
    if optimizer == "sgd":
        return []
    if optimizer in ("adamw_torch", "adamw_torch_fused"):
        out = []
        for group in trainable:
            out += [Group(group.numel, group.element_bytes, group.count)] * 2
            if optimizer == "adamw_torch_fused" or route == "cpu":
                out.append(Group(1, SCALAR_BYTES, group.count))
        return out
    if optimizer == "adamw_8bit":
        return _eight_bit(trainable)
    raise UnsupportedError(f"--optimizer {optimizer} is not priced yet", remedy=f"priced: {', '.join(PRICED)}")


def _eight_bit(trainable: list[Group]) -> list[Group]:
    out = []
    any_eight_bit = False
    for group in trainable:
        if group.numel < EIGHT_BIT_MINIMUM or group.embedding:
            out += [Group(group.numel, 4, group.count)] * 2
        else:
            blocks = -(-group.numel // EIGHT_BIT_BLOCK)
            out += [Group(group.numel, 1, group.count), Group(blocks, 4, group.count)] * 2
            any_eight_bit = True
    if any_eight_bit:
        out += [Group(QUANTILE_MAP_BYTES, 1, 2)]  # qmap1 and qmap2, shared by all parameters
    return out


def step_peak_bytes(optimizer: Optimizer, trainable: list[Group], route: Route, quantum_bytes: int) -> int:
    """The most the step holds beyond weights, gradients and states."""
    clip = clip_peak_bytes(trainable, route, quantum_bytes)
    if optimizer == "adamw_torch":
        if route == "cuda":
            return max(clip, total_bytes(step_temporaries(optimizer, trainable), quantum_bytes))
        return max(clip, _one_by_one(trainable, quantum_bytes))
    return clip


def step_temporaries(optimizer: Optimizer, trainable: list[Group]) -> list[Group]:
    """The tensors a CUDA step holds at once: foreach's square roots, of one parameter group after the other."""
    if optimizer != "adamw_torch":
        return []
    groups = [[group for group in trainable if group.decays is decays] for decays in (True, False)]
    return max(groups, key=lambda group: total_bytes(group, 1))


def _one_by_one(trainable: list[Group], quantum_bytes: int) -> int:
    """The single-tensor path: the square root and its quotient, while the name ``denom`` still holds the parameter
    before's (torch/optim/adamw.py, _single_tensor_adamw). Parameters in the order they are listed."""
    highest = 0
    for decays in (True, False):
        before = 0
        for group in trainable:
            if group.decays is decays:
                size = round_up(group.numel * group.element_bytes, quantum_bytes)
                highest = max(highest, 2 * size + before)
                before = size
    return highest


def clip_peak_bytes(trainable: list[Group], route: Route, quantum_bytes: int) -> int:
    """clip_grad_norm_: one norm a gradient, their stack, and a few scalars (torch/nn/utils/clip_grad.py)."""
    tensors = sum(group.count for group in trainable)
    element = max((group.element_bytes for group in trainable), default=4)
    norms = tensors * round_up(element, quantum_bytes)
    return norms + round_up(tensors * element, quantum_bytes) + round_up(element, quantum_bytes)
