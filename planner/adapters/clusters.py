"""What a person says of the machines, as a Cluster."""

from vramplan.hardware_profiles.interconnects import interconnects
from vramplan.planner.adapters.devices import read_devices
from vramplan.planner.cluster import Cluster, Link
from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError


def link_names() -> tuple[str, ...]:
    """What ``--interconnect`` knows by name."""
    return tuple(interconnects())


def make_cluster(interconnect: str | None, host_memory_bytes: int | None) -> Cluster:
    """A Cluster of ``--interconnect`` and ``--host-memory``.

    Args:
        interconnect: names, separated by commas: what joins GPUs within a node, what joins nodes.

    Raises:
        UsageError: no such link, or two of a kind.
    """
    found: dict[bool, Link] = {}
    for name in (interconnect or "").split(","):
        if not name.strip():
            continue
        row = interconnects().get(name.strip().lower())
        if row is None:
            names = ", ".join(interconnects())
            raise UsageError(f"--interconnect {name.strip()[:40]}: no such link is known", remedy=f"known: {names}")
        if row.between_nodes in found:
            raise UsageError(
                f"--interconnect names two links {'between nodes' if row.between_nodes else 'within a node'}",
                remedy="one of each, such as nvlink4,infiniband-ndr",
            )
        found[row.between_nodes] = Link(
            name=row.name,
            bytes_per_second=int(row.gb_per_second * 10**9),
            between_nodes=row.between_nodes,
            source=row.source,
        )
    return Cluster(within_node=found.get(False), between_nodes=found.get(True), host_memory_bytes=host_memory_bytes)


def least_free(device: Device | None, gpus: int) -> Device | None:
    """Of several GPUs that are here, the one with the least free: its rank is the first to run out.

    Raises:
        UsageError: there are fewer of that product.
    """
    if gpus == 1 or device is None or device.source != "reading" or device.kind == "cpu":
        return device
    alike = [each for each in read_devices() if each.name == device.name]
    if len(alike) < gpus:
        raise UsageError(
            f"--gpus {gpus}, and {len(alike)} {device.name} are here",
            remedy=f"use --gpus {len(alike)}, or name the product to plan for: --device {device.name!r}",
        )
    least = min(alike[:gpus], key=lambda each: each.available_bytes)
    return least.model_copy(update={"reserve_bytes": device.reserve_bytes})
