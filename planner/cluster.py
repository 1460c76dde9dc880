"""Cluster: what joins the GPUs of a run. Link: one kind of connection, from hardware_profiles/interconnects.json."""

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
