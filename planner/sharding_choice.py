"""How many GPUs, and what is split between them: from options to the setup's fields."""

from typing import Any

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.methods import SHARDED_METHODS, Method, quant_of
from vramplan.planner.picker import Picker


def choose_sharding(pick: Picker, method: Method) -> dict[str, Any]:
    """``gpus``, ``nodes``, ``sharding`` and ``offload`` of a setup; one device has none of these to say.

    Raises:
        UsageError: they do not go together.
        UnsupportedError: understood, but not priced yet.
    """
    names = ("gpus", "nodes", "sharding", "offload")
    if all(pick.given(name) in (None, 1, "none") for name in names):
        return {}
    gpus, nodes = int(pick.take("gpus", 1)), int(pick.take("nodes", 1))
    world = gpus * nodes
    asked = pick.given("sharding")
    if world == 1:
        raise UsageError(
            f"--sharding {asked} needs more than one GPU", remedy="add --gpus N, or leave --sharding and --offload out"
        )
    if asked == "none":
        raise UsageError(
            f"--sharding none with {world} GPUs: {world - 1} would stand idle",
            remedy="use --sharding ddp, which copies everything, or --sharding fsdp",
        )
    if isinstance(method, SHARDED_METHODS) or pick.given("offload") not in (None, "none"):
        sharding = pick.take("sharding", "fsdp", derived="splits what one GPU would hold")
    else:
        sharding = pick.take("sharding", "ddp", derived=f"{method.kind} is priced under DDP alone")
    offload = pick.take("offload", "none")
    if sharding == "fsdp" and offload == "optimizer":
        raise UsageError(
            "--offload optimizer with --sharding fsdp: FSDP2 offloads parameters, gradients and states together",
            remedy="use --offload all, or --sharding zero2",
        )
    if sharding in ("zero1", "zero2") and offload == "all":
        raise UsageError(
            f"--offload all with --sharding {sharding}: only ZeRO's third stage offloads parameters",
            remedy="use --offload optimizer, or --sharding zero3",
        )
    if sharding == "zero3" and quant_of(method) is not None:
        raise UnsupportedError(
            "--sharding zero3 with a quantised base is not priced yet", remedy="use --sharding fsdp or zero2"
        )
    return {"gpus": gpus, "nodes": nodes, "sharding": sharding, "offload": offload}
