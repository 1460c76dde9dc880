"""Beside a rank's own memory: host memory, and what goes over the links.

Host memory of a rank: its process, and while loading
    ddp, none   nothing that lasts: weights pass to the GPU through mapped files
    fsdp        the whole model on each node's first rank (accelerate, fsdp_cpu_ram_efficient_loading), on every rank
                where weights are cast, and of 4-bit bases
    zero        the whole model on every rank
    offload     shards, gradients and states, pinned

Sent by each rank in a ring of W (Patarasuk and Yuan, 2009, "Bandwidth optimal all-reduce algorithms"): (W - 1) / W of
what is gathered or scattered, twice that of what is all-reduced. P parameters gathered, G gradients, a micro steps:
    ddp         2 G
    fsdp        a (2 P + G)
    zero1       2 G, and the parameters that train
    zero2       a 2 G, for a bucket is all-reduced and each rank takes its part (stage_1_and_2.py,
                allreduce_and_scatter); and the parameters that train
    zero3       a (2 P + G); with checkpointing a (3 P + G), for a layer is gathered to be recomputed too
"""

from typing import NamedTuple

from vramplan.planner.cluster import Cluster, Link, Ranks
from vramplan.planner.memory.many_gpus import ManyGpus
from vramplan.planner.memory.outside import CPU_PROCESS_BYTES
from vramplan.planner.memory.sharded import FsdpPricing
from vramplan.planner.memory.static import count_static
from vramplan.planner.memory.zero import ZeroPricing
from vramplan.planner.methods import quant_of, trains_base
from vramplan.planner.units import format_bytes


class Sent(NamedTuple):
    """Bytes that each rank sends in an optimizer step, by when."""

    each_micro_batch: float = 0.0
    last_backward: float = 0.0
    after_step: float = 0.0
    """What nothing hides: DeepSpeed's, which work on one stream (planner/deepspeed.py)."""
    gathers: bool = False
    """Weights are gathered in each micro batch, so its forward hides some of it too."""

    def in_a_step(self, micro_batches: int) -> float:
        """All of it."""
        return self.each_micro_batch * micro_batches + self.last_backward + self.after_step


def ranks_of(pricing: ManyGpus, cluster: Cluster) -> Ranks:
    """What the ranks take together."""
    setup = pricing.asked
    first, other, because = _host_loading(pricing)
    pinned = _pinned(pricing)
    first, other = first + CPU_PROCESS_BYTES + pinned, other + CPU_PROCESS_BYTES + pinned
    sent = int(sent_by(pricing).in_a_step(setup.gradient_accumulation_steps))
    seconds, why = _seconds(sent, setup.nodes, cluster)
    return Ranks(
        world_size=setup.world_size,
        gpus=setup.gpus,
        nodes=setup.nodes,
        worst_rank="rank 0: where a tensor's rows do not divide, its part is the largest",
        host_first_bytes=first,
        host_other_bytes=other,
        host_pinned_bytes=pinned,
        host_node_bytes=first + (setup.gpus - 1) * other,
        host_available_bytes=cluster.host_memory_bytes,
        host_because=because,
        sent_bytes_per_step=sent,
        communication_seconds=seconds,
        communication_because=why,
        unchecked=_unchecked(pricing, cluster),
    )


def _whole_bytes(pricing: ManyGpus) -> int:
    """The model as one process holds it."""
    static = count_static(pricing.question.model, pricing.question.setup)
    groups = (*static.weights, *static.quantization_state)
    return sum(group.rounded(1) for group in groups)


def _host_loading(pricing: ManyGpus) -> tuple[int, int, str]:
    """Of a node's first rank, of each other, and why."""
    whole = _whole_bytes(pricing)
    sharding, offload = pricing.asked.sharding, pricing.asked.offload
    if sharding == "fsdp" and quant_of(pricing.asked.method) is not None:
        return whole, whole, "every rank loads the quantised model whole before it is sharded"
    if sharding == "fsdp":
        return _host_fsdp(pricing, whole)
    if sharding.startswith("zero") or offload != "none":
        return whole, whole, "every rank loads the model whole"
    return 0, 0, "weights go to the GPU through mapped files"


def _host_fsdp(pricing: ManyGpus, whole: int) -> tuple[int, int, str]:
    """transformers 5.23 lets every rank read the weights: mapped from the file in the dtype they are stored in, a copy
    of its own in another. What trains becomes fp32 on every rank under mixed precision (accelerate/utils/fsdp_utils.py,
    fsdp2_prepare_model)."""
    asked, model = pricing.asked, pricing.question.model
    if asked.precision.mixed_precision != "no" and asked.precision.dtype != "fp32" and trains_base(asked.method):
        return 2 * whole, 2 * whole, "every rank reads the model whole and casts what trains to fp32"
    if asked.precision.dtype != model.checkpoint_dtype:
        return whole, whole, f"every rank casts the model whole from {model.checkpoint_dtype}"
    return whole, 0, "the first rank of each node loads the model whole, the others map its files"


def _pinned(pricing: ManyGpus) -> int:
    """What is offloaded, of one rank."""
    if pricing.asked.offload == "none":
        return 0
    trained = sum(group.numel * group.count for group in pricing.static.trainable)
    if isinstance(pricing, FsdpPricing):
        shards = [
            each.shard_numel(pricing.world) * each.stored_bytes
            for unit in pricing.units.all
            for each in unit.parameters
        ]
        states = sum(2 * group.numel * group.element_bytes * group.count for group in pricing.static.trainable)
        return sum(shards) + sum(unit.gradient_bytes(pricing.world) for unit in pricing.units.all) + states
    assert isinstance(pricing, ZeroPricing)
    weights = pricing.whole_weights_bytes // pricing.world if pricing.asked.offload == "all" else 0
    return trained * 16 + weights  # fp32 masters, two states, gradients


def sent_by(pricing: ManyGpus) -> Sent:
    """By each rank, in rings."""
    alone = count_static(pricing.question.model, pricing.question.setup)
    share = (pricing.world - 1) / pricing.world
    parameters = share * sum(group.rounded(1) for group in (*alone.weights, *alone.adapter))
    gradients = share * sum(group.rounded(1) for group in alone.trainable)
    micro_batches = pricing.asked.gradient_accumulation_steps
    gathered = (3 if pricing.asked.gradient_checkpointing else 2) * parameters
    return {
        "ddp": Sent(last_backward=2 * gradients),
        "fsdp": Sent(each_micro_batch=2 * parameters + gradients, gathers=True),
        "zero1": Sent(after_step=3 * gradients),
        "zero2": Sent(after_step=2 * gradients * micro_batches + gradients),
        "zero3": Sent(after_step=(gathered + gradients) * micro_batches),
    }[pricing.asked.sharding]


def slowest_link(cluster: Cluster, nodes: int) -> Link | str:
    """The link that decides, or what is not known."""
    needed: list[Link | None] = [cluster.within_node] + ([cluster.between_nodes] if nodes > 1 else [])
    known = [link for link in needed if link is not None]
    if len(known) < len(needed):
        return "name the links with --interconnect, such as nvlink4 or nvlink4,infiniband-ndr"
    return min(known, key=lambda link: link.bytes_per_second)


def _seconds(sent: int, nodes: int, cluster: Cluster) -> tuple[float | None, str]:
    slowest = slowest_link(cluster, nodes)
    if isinstance(slowest, str):
        return None, f"not known: {slowest}"
    rate = f"{format_bytes(slowest.bytes_per_second)}/s"
    return sent / slowest.bytes_per_second, f"at {rate}, {slowest.name}, none of it hidden behind computing"


def _unchecked(pricing: ManyGpus, cluster: Cluster) -> tuple[str, ...]:
    out = ["NCCL's buffers: other people's measurements"]
    if cluster.host_memory_bytes is None:
        out.append("host memory: give each node's with --host-memory")
    if pricing.asked.sharding.startswith("zero"):
        out.append("DeepSpeed on GPUs: measured in two processes on a CPU alone")
    if pricing.asked.offload != "none":
        out.append("offload: from the engines' sources, no run of ours")
    if pricing.asked.nodes > 1:
        out.append("more than one node: the same code on paper, no run of ours")
    return tuple(out)
