"""bitsandbytes' optimizers: a byte per state and an fp32 per block of 256.

Tensors under 4096 elements keep fp32 states, and so do embeddings under Trainer, which asks for that; a loop written by
hand does not. Paged: states of 100,000 elements and more lie in CUDA managed memory, which PyTorch does not count; the
driver keeps it on the device while there is room and moves it to host memory otherwise. The kernels work in place.

Sources: bitsandbytes/optim/optimizer.py (get_state_buffer; Optimizer2State.init_state and Optimizer1State.init_state);
transformers/trainer.py (create_optimizer: the override for embeddings).
"""

from vramplan.planner.device import Route
from vramplan.planner.memory.groups import Group, round_up
from vramplan.planner.training_setup import Loop, Optimizer

MINIMUM = 4096
"""min_8bit_size, bitsandbytes/optim/optimizer.py."""
BLOCK = 256
PAGED_MINIMUM = 100_000
"""get_state_buffer: below it nothing is paged."""
CODE_BYTES = 256 * 4
"""A quantisation map, one for each state, shared by all parameters."""


def state_groups(
    optimizer: Optimizer, trainable: list[Group], route: Route, loop: Loop
) -> tuple[list[Group], list[Group]]:
    """(states in PyTorch's memory, states in managed memory). On the CPU nothing is paged."""
    states = 1 if optimizer == "lion_8bit" else 2
    pages = optimizer == "paged_adamw_8bit" and route == "cuda"
    counted: list[Group] = []
    managed: list[Group] = []
    any_eight_bit = False
    for group in trainable:
        wide = _is_wide(group, loop)
        where = managed if pages and group.numel >= PAGED_MINIMUM else counted
        where += [Group(group.numel, 4 if wide else 1, group.count)] * states
        if not wide:
            counted += [Group(-(-group.numel // BLOCK), 4, group.count)] * states
            any_eight_bit = True
    if any_eight_bit:
        counted.append(Group(CODE_BYTES, 1, states))
    return counted, managed


def cpu_step_peak_bytes(trainable: list[Group], loop: Loop, quantum_bytes: int) -> int:
    """What the CPU's kernels hold in fp32 for one parameter at a time: its gradient and, when it is half precision,
    itself; of fp32 states two copies, of 8-bit ones four (Adam: two opened, a root and its quotient; Lion: one opened,
    two products and their sum). Source: bitsandbytes/backends/cpu/ops.py."""
    highest = 0
    for group in trainable:
        copies = 1 + (group.element_bytes < 4) + (2 if _is_wide(group, loop) else 4)
        highest = max(highest, copies * round_up(4 * group.numel, quantum_bytes))
    return highest


def _is_wide(group: Group, loop: Loop) -> bool:
    """Whether its states are fp32."""
    return group.numel < MINIMUM or (group.embedding and loop != "plain")
