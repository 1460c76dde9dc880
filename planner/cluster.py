"""Cluster: what joins the GPUs of a run. Link: one kind of connection, from hardware_profiles/interconnects.json."""

from vramplan.planner.device import DeviceProfile
from vramplan.planner.values import Value


class Link(Value):
    """A connection as one GPU has it."""

    name: str
    bytes_per_second: int
    """In one direction, of one GPU; a specification, never reached in full."""
    between_nodes: bool
    source: str


class Cluster(Value):
    """What is known of the machines beside their GPUs; None is unknown."""

    within_node: Link | None = None
    between_nodes: Link | None = None
    host_memory_bytes: int | None = None
    """Of each node, free for the run."""


def with_own_link(cluster: Cluster, profile: DeviceProfile | None) -> Cluster:
    """A cluster whose GPUs are joined as their product's usually are, where nobody said how."""
    if cluster.within_node is not None or profile is None or profile.link is None or not profile.link_bytes_per_second:
        return cluster
    link = Link(
        name=f"{profile.link} (assumed of {profile.name}; --interconnect says otherwise)",
        bytes_per_second=profile.link_bytes_per_second,
        between_nodes=False,
        source="the product's data sheet",
    )
    return cluster.model_copy(update={"within_node": link})


class Ranks(Value):
    """What a run on several GPUs takes beside each rank's memory."""

    world_size: int
    gpus: int
    nodes: int
    worst_rank: str
    """Which rank the figures are of, and why it decides."""
    host_first_bytes: int
    """Host memory of a node's first rank while it loads and trains."""
    host_other_bytes: int
    """Of each other rank."""
    host_pinned_bytes: int
    """Of each rank, the part that cannot be swapped: what is offloaded."""
    host_node_bytes: int
    """Of a node, all its ranks."""
    host_available_bytes: int | None
    host_because: str
    sent_bytes_per_step: int
    """Sent by each rank in an optimizer step, in rings."""
    communication_seconds: float | None
    """At the slowest link's own speed, and none of it hidden behind computing; None: a link is not known."""
    communication_because: str
    unchecked: tuple[str, ...]
    """What nobody has checked, in words."""
