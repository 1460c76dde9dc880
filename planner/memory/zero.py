"""DeepSpeed's ZeRO, from the paper and DeepSpeed's source.

Masters and states, the whole weights of stages 1 and 2, and stage 3's lasting bucket are what DeepSpeed 0.19.8 held in
two processes on a CPU (a Llama of 269,632 parameters in full, after a step; stages 2 and 3 in fp32 and in bf16, stage 1
in fp32), to the byte; the rest no run of ours has measured.

With n trainable parameters of e bytes and W ranks (Rajbhandari et al., 2020, arXiv:1910.02054, section 5):

    zero1   weights and gradients whole; master weights and AdamW's states: 12 n / W bytes, masters in fp32
            too: DeepSpeed trains a copy of its partition (stage_1_and_2.py, single_partition_of_fp32_groups)
    zero2   gradients too: e n / W, and one bucket of 500 million elements (deepspeed/runtime/zero/config.py,
            reduce_bucket_size; stage_1_and_2.py allocates it in full in every backward)
    zero3   weights too, but tensors of 100,000 elements and less (param_persistence_threshold); gathered ahead up to
            1,000 million elements are whole at a time (max_live_parameters); the bucket lasts

In half precision the step holds the partition's gradients in fp32 as well; stage 3 does so for at most 1,000 million
elements at a time (sub_group_size). ``offload optimizer``: masters, states and the gradients' partition are in host
memory; ``all``: in stage 3 the weights too.
"""

from dataclasses import dataclass

from vramplan.planner.memory.groups import Group
from vramplan.planner.memory.static import StaticMemory
from vramplan.planner.training_setup import Offload

REDUCE_BUCKET_ELEMENTS = 500_000_000
PERSISTENT_ELEMENTS = 100_000
MAX_LIVE_ELEMENTS = 1_000_000_000
SUB_GROUP_ELEMENTS = 1_000_000_000
"""deepspeed/runtime/zero/config.py, DeepSpeed 0.19; accelerate leaves them as they are."""
MASTER_BYTES = 4
BASIS = "ZeRO from the paper (arXiv:1910.02054) and DeepSpeed 0.19's source and default buckets: unmeasured"


@dataclass(frozen=True)
class Zero:
    """What one rank holds."""

    static: StaticMemory
    states: list[Group]
    """Master weights and the optimizer's states."""
    gradients: list[Group]
    """Between micro batches and until the step."""
    bucket_bytes: int
    gathered_bytes: int
    step_bytes: int
    """Beside all that in the optimizer's step."""


def zero(
    static: StaticMemory, stage: int, world: int, offload: Offload, *, states_per_parameter: int, half: bool
) -> Zero:
    """One rank of ``world``.

    Args:
        static: one device's.
        states_per_parameter: the optimizer's tensors of a parameter's size: two for AdamW.
        half: parameters are in half precision, so the step needs their gradients in fp32.
    """
    whole = stage < 3
    on_host = offload != "none"
    trained = sum(group.numel * group.count for group in static.trainable)
    element = max((group.element_bytes for group in static.trainable), default=2)
    part = -(-trained // world)
    states = [Group(part, MASTER_BYTES, states_per_parameter + 1)]
    gradients = static.trainable if stage == 1 else [Group(part, element, 1)]
    live = sum(group.numel * group.count for group in (*static.weights, *static.adapter))
    widest = max((group.element_bytes for group in (*static.weights, *static.adapter)), default=2)
    sharded = StaticMemory(
        weights=static.weights if whole else _parts(static.weights, world, on_host=offload == "all"),
        quantization_state=static.quantization_state,
        adapter=static.adapter if whole else _parts(static.adapter, world, on_host=offload == "all"),
        trainable=[Group(part, MASTER_BYTES, 1)],
        quantized_params=static.quantized_params,
    )
    step_elements = part if whole else min(part, SUB_GROUP_ELEMENTS)
    return Zero(
        static=sharded,
        states=[] if on_host else states,
        gradients=gradients if stage == 1 or not on_host else [],
        bucket_bytes=REDUCE_BUCKET_ELEMENTS * element,
        gathered_bytes=0 if whole else min(live, MAX_LIVE_ELEMENTS) * widest,
        step_bytes=step_elements * MASTER_BYTES if half and not on_host else 0,
    )


def _parts(groups: list[Group], world: int, *, on_host: bool) -> list[Group]:
    """Each tensor's part; small ones stay whole on every rank."""
    return [
        group
        if group.numel <= PERSISTENT_ELEMENTS
        else Group(0 if on_host else -(-group.numel // world), group.element_bytes, group.count, group.decays)
        for group in groups
    ]
