"""One script as several processes: what DDP and FSDP2 are told, how torchrun starts them, and what is refused.

FSDP2 is told what its price assumes (planner/memory/sharded.py): a unit each decoder layer, freed after its forward;
gradients reduced after every micro batch; shards sent by the first process, a parameter at a time.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from vramplan.planner.deepspeed import stage_of
from vramplan.planner.export.engine import Refusal, Source, only
from vramplan.planner.export.limits import common
from vramplan.planner.export.shell import Shell
from vramplan.planner.export.trainer import on_cpu, quantised
from vramplan.planner.methods import Lora, Qlora, quant_of
from vramplan.planner.plan import Plan

RANK_FIELDS = {
    "setup.gpus": "--nproc-per-node, checked at the start",
    "setup.nodes": "--nnodes, checked at the start",
    "setup.sharding": "fsdp, fsdp_config; DDP where there is none",
    "setup.offload": "fsdp_config: cpu_offload",
}
RENDEZVOUS_PORT = 29500
"""torchrun's own default."""


def several(plan: Plan) -> bool:
    """Whether the plan is for more than one process."""
    return plan.setup.world_size > 1


def rank_arguments(plan: Plan) -> dict[str, Any]:
    """TrainingArguments of several processes."""
    if plan.setup.sharding == "ddp":
        return {"ddp_find_unused_parameters": False}
    if plan.setup.sharding != "fsdp":
        return {}
    return {
        "fsdp": True,
        "fsdp_config": {
            "version": 2,
            "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            "reshard_after_forward": True,
            "cpu_offload": plan.setup.offload == "all",
            "cpu_ram_efficient_loading": sends_shards(plan),
            "state_dict_type": "FULL_STATE_DICT",
        },
        "accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}},
    }


def sends_shards(plan: Plan) -> bool:
    """Whether the others get their shards from the first process; of a quantised base each makes its own."""
    return plan.setup.sharding == "fsdp" and not quantised(plan)


def distributed_type(plan: Plan) -> str:
    """accelerate's name of how the processes work together."""
    if plan.setup.sharding == "fsdp":
        return "FSDP"
    if stage_of(plan.setup):
        return "DEEPSPEED"
    return "MULTI_CPU" if on_cpu(plan) else "MULTI_GPU"


def torchrun(plan: Plan, *, rendezvous: Sequence[str] = ()) -> list[str]:
    """The words that start the processes of one node, the script's name left out.

    Args:
        rendezvous: options by which several nodes find one another.
    """
    setup = plan.setup
    meeting = list(rendezvous) if setup.nodes > 1 else ["--standalone"]
    return ["torchrun", *meeting, f"--nnodes={setup.nodes}", f"--nproc-per-node={setup.gpus}"]


def first_node(address: str, node_rank: str, port: str = str(RENDEZVOUS_PORT)) -> list[str]:
    """Options for nodes that are numbered; words of a shell, taken as they are."""
    return [Shell(f"--node-rank={node_rank}"), Shell(f"--master-addr={address}"), Shell(f"--master-port={port}")]


def script_limits(source: Source) -> Iterator[Refusal]:
    """What the standalone script cannot be told, however it is started."""
    yield from common(source)
    yield from _layout(source.plan)
    if source.plan.setup.sharding == "fsdp":
        yield from _fsdp(source.plan)


def one_node(source: Source, because: str, nearest: str) -> Iterator[Refusal]:
    """An engine that starts one machine."""
    if source.plan.setup.nodes > 1:
        yield Refusal("setup.nodes", source.plan.setup.nodes, because, nearest)


def _layout(plan: Plan) -> Iterator[Refusal]:
    setup = plan.setup
    if not several(plan):
        yield from only(plan, "setup.sharding", "none", because="there is one process")
        yield from only(plan, "setup.offload", "none", because="there is one process")
        return
    if setup.sharding == "none":
        because = "without setup.sharding each process would train a model of its own"
        names = [name for name in ("gpus", "nodes") if getattr(setup, name) > 1]
        yield from (Refusal(f"setup.{name}", getattr(setup, name), because, "--sharding ddp") for name in names)
        yield Refusal("setup.sharding", "none", f"there are {setup.world_size} processes", "--sharding ddp")
    elif setup.sharding not in ("ddp", "fsdp"):
        yield Refusal("setup.sharding", setup.sharding, "DeepSpeed runs are not exported yet", "--sharding fsdp")
    offloads = ("none", "all") if setup.sharding == "fsdp" else ("none",)
    yield from only(plan, "setup.offload", *offloads, because=f"setup.sharding {setup.sharding} has no such offload")


def _fsdp(plan: Plan) -> Iterator[Refusal]:
    """Setups that no run under FSDP2 is known of."""
    because = "no run of it under FSDP2 is known"
    if on_cpu(plan):
        yield Refusal("setup.sharding", "fsdp", "accelerate shards models on GPUs alone", "--sharding ddp")
    method = plan.setup.method
    yield from only(plan, "setup.method.kind", "full", "lora", "qlora", because=because)
    yield from only(plan, "setup.optimizer", "adamw_torch_fused", "adamw_torch", "sgd", because=because)
    yield from only(plan, "setup.kbit_preparation", False, because=because)
    if quant_of(method) == "int8":
        because = f"{because} for setup.method.kind {method.kind}"
        yield Refusal("setup.method.quant", "int8", because, "--quant nf4")
    if isinstance(method, Lora | Qlora):
        named = f"{because} for setup.method.kind {method.kind}"
        yield from only(plan, "setup.method.use_dora", False, because=named)
        yield from only(plan, "setup.method.modules_to_save", (), because=named)
        yield from only(plan, "setup.method.trainable_token_indices", (), because=named)
        yield from only(plan, "setup.method.init_lora_weights", "default", "gaussian", because=named)
