"""Whether a budget fits where it is to run, in a word and a reason."""

from vramplan.planner.candidate import Verdict
from vramplan.planner.cluster import Ranks
from vramplan.planner.device import Device
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.units import format_bytes


def judge(budget: MemoryBudget, device: Device | None, at_limit: int | None = None) -> tuple[Verdict | None, str]:
    """fits: the high process figure is available; tight: only the estimate is; no: neither.

    Args:
        at_limit: what the process holds where the allocator gives back its cache when the device is full, if that is
            enough: tight as well.
    """
    if device is None:
        return None, "no device named"
    if device.kind == "rocm":
        return None, "priced along CUDA's kernels; nobody has compared them with ROCm's, so there is no verdict"
    available = device.available_bytes
    high, expected = budget.high_process_bytes, budget.process_bytes
    if high <= available:
        return "fits", f"needs up to {format_bytes(high)} of {format_bytes(available)}"
    if expected <= available:
        return "tight", (
            f"expected {format_bytes(expected)} of {format_bytes(available)}, but it may take {format_bytes(high)}"
        )
    if at_limit is not None and at_limit <= available:
        return "tight", (
            f"expected {format_bytes(expected)}, {format_bytes(expected - available)} more than"
            f" {format_bytes(available)}: fits only where the allocator gives back its cache each time the device is"
            " full, which takes time"
        )
    if device.free_bytes is not None and high <= device.total_bytes - device.reserve_bytes:
        missing = format_bytes(high - available)
        return "no", f"would fit with {missing} freed on this card ({_holders(device)})"
    return (
        "no",
        f"needs {format_bytes(expected)}, {format_bytes(expected - available)} more than {format_bytes(available)}",
    )


def judge_ranks(
    budget: MemoryBudget, device: Device | None, ranks: Ranks, at_limit: int | None = None
) -> tuple[Verdict | None, str]:
    """The worst rank decides, and the hosts' memory where it is known."""
    verdict, reason = judge(budget, device, at_limit)
    host = ranks.host_available_bytes
    if host is not None and ranks.host_node_bytes > host:
        needed, free = format_bytes(ranks.host_node_bytes), format_bytes(host)
        host_reason = f"a node's {ranks.gpus} processes need {needed} of host memory, and it has {free}"
        both = f"each of {ranks.world_size} ranks {reason}; {host_reason}" if verdict == "no" else host_reason
        return ("no" if verdict else verdict), both
    return verdict, f"each of {ranks.world_size} ranks {reason}" if verdict in ("fits", "no") else reason


def _holders(device: Device) -> str:
    holders = [holder for holder in device.holders if holder.used_bytes]
    if not holders:
        return "the driver does not say who holds it"
    named = [f"{holder.name or holder.pid}: {format_bytes(holder.used_bytes or 0)}" for holder in holders[:3]]
    return "held by " + ", ".join(named)
