"""Optimizer states, and what a step allocates on top of them.

    adamw_torch         two states a parameter in its own dtype; on CUDA the foreach path holds one more copy (the
                        square roots) of each parameter group at once; on the CPU one parameter at a time
    adamw_torch_fused   the same states and a 4-byte step counter on the device; no temporaries
    adamw_8bit, paged_adamw_8bit, lion_8bit
                        bitsandbytes' (eight_bit.py)
    adafactor           transformers' (adafactor.py)
    sgd                 nothing: no momentum, and without weight decay no copy of the gradients

Sources: torch/optim/adamw.py (_multi_tensor_adamw, _single_tensor_adamw), torch/optim/adam.py (_init_group: where the
step lives; _multi_tensor_adam: one list of square roots for each dtype, bound to the same name); torch/optim/sgd.py.
"""

from vramplan.planner.device import Route
from vramplan.planner.memory import adafactor, eight_bit
from vramplan.planner.memory.groups import Group, one_after_another, round_up, total_bytes
from vramplan.planner.training_setup import Loop, Optimizer

SCALAR_BYTES = 4
EIGHT_BIT: tuple[Optimizer, ...] = ("adamw_8bit", "paged_adamw_8bit", "lion_8bit")


def state_groups(optimizer: Optimizer, trainable: list[Group], route: Route, *, loop: Loop = "executor") -> list[Group]:
    """The optimizer's tensors in PyTorch's memory, after its first step.

    Raises:
        UnsupportedError: adafactor, and a parameter's shape is not known.
    """
    if optimizer == "sgd":
        return []
    if optimizer == "adafactor":
        return adafactor.state_groups(trainable)
    if optimizer in EIGHT_BIT:
        return eight_bit.state_groups(optimizer, trainable, route, loop)[0]
    out = []
    for group in trainable:
        out += [Group(group.numel, group.element_bytes, group.count)] * 2
        if optimizer == "adamw_torch_fused" or route == "cpu":
            out.append(Group(1, SCALAR_BYTES, group.count))
    return out


def managed_groups(
    optimizer: Optimizer, trainable: list[Group], route: Route, *, loop: Loop = "executor"
) -> list[Group]:
    """The optimizer's tensors in CUDA managed memory, which PyTorch does not count."""
    return eight_bit.state_groups(optimizer, trainable, route, loop)[1] if optimizer in EIGHT_BIT else []


def parameter_groups(trainable: list[Group], loop: Loop) -> list[list[Group]]:
    """The optimizer's parameter groups, one for each learning rate; Trainer parts what decays from what does not."""
    parts: list[list[Group]] = []
    for rate in sorted({group.rate for group in trainable} | {0}):
        alike = [group for group in trainable if group.rate == rate]
        if loop == "plain":
            parts.append(alike)
        else:
            parts += [[group for group in alike if group.decays == decays] for decays in (True, False)]
    return parts


def step_peak_bytes(
    optimizer: Optimizer, trainable: list[Group], route: Route, quantum_bytes: int, *, loop: Loop = "executor"
) -> int:
    """The most the step holds beyond weights, gradients and states."""
    clip = clip_peak_bytes(trainable, route, quantum_bytes)
    parts = parameter_groups(trainable, loop)
    if optimizer == "adafactor":
        return max(clip, adafactor.step_peak_bytes(parts, quantum_bytes))
    if optimizer in EIGHT_BIT and route == "cpu":
        return max(clip, eight_bit.cpu_step_peak_bytes(trainable, loop, quantum_bytes))
    if optimizer == "adamw_torch" and route == "cuda":
        return max(clip, total_bytes(step_temporaries(optimizer, trainable, loop=loop), quantum_bytes))
    if optimizer == "adamw_torch":
        return max(clip, _one_by_one(parts, quantum_bytes))
    return clip


def step_temporaries(optimizer: Optimizer, trainable: list[Group], *, loop: Loop = "executor") -> list[Group]:
    """The tensors a CUDA step holds at once: foreach's square roots of one parameter group after the other; inside a
    group, those of one dtype while the ones of the dtype before are still bound. Adafactor's largest tensors."""
    parts = parameter_groups(trainable, loop)
    if optimizer == "adafactor":
        return adafactor.step_temporaries(parts)
    if optimizer != "adamw_torch":
        return []
    held: list[list[Group]] = [[]]
    for part in parts:
        by_dtype: dict[int, list[Group]] = {}
        for group in part:
            by_dtype.setdefault(group.element_bytes, []).append(group)
        lists = list(by_dtype.values())
        held += [before + here for before, here in zip([[], *lists], lists, strict=False)]
    return max(held, key=lambda groups: total_bytes(groups, 1))


def _one_by_one(parts: list[list[Group]], quantum_bytes: int) -> int:
    """The single-tensor path: the square root and its quotient, while the name ``denom`` still holds the parameter
    before's (torch/optim/adamw.py, _single_tensor_adamw)."""
    highest = 0
    for part in parts:
        before = 0
        for group in one_after_another(part):
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
