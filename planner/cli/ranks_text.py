"""What several GPUs take together, in words."""

from vramplan.planner.cli.render import paragraph
from vramplan.planner.cluster import Ranks
from vramplan.planner.units import format_bytes


def ranks_lines(ranks: Ranks, *, width: int) -> list[str]:
    """The ranks, their hosts' memory, what goes over the links, and what nobody checked."""
    nodes = f"{ranks.nodes} nodes x {ranks.gpus} GPUs" if ranks.nodes > 1 else f"{ranks.gpus} GPUs of one node"
    return [
        paragraph(f"{ranks.world_size}: {nodes}; {ranks.worst_rank}", width=width, first="ranks    "),
        paragraph(_host_words(ranks), width=width, first="host     "),
        paragraph(_sent_words(ranks), width=width, first="links    "),
        paragraph("; ".join(ranks.unchecked), width=width, first="unchecked "),
    ]


def _host_words(ranks: Ranks) -> str:
    first, other = format_bytes(ranks.host_first_bytes), format_bytes(ranks.host_other_bytes)
    each = f"{first} a rank" if first == other else f"{first} the first rank, {other} each other"
    node = f"; {format_bytes(ranks.host_node_bytes)} a node" if ranks.gpus > 1 else ""
    free = "" if ranks.host_available_bytes is None else f" of {format_bytes(ranks.host_available_bytes)}"
    pinned = (
        f", {format_bytes(ranks.host_pinned_bytes)} of a rank's for what is offloaded"
        if ranks.host_pinned_bytes
        else ""
    )
    return f"{each}{node}{free}{pinned}: {ranks.host_because}"


def _sent_words(ranks: Ranks) -> str:
    sent = f"{format_bytes(ranks.sent_bytes_per_step)} sent by each rank in a step"
    if ranks.communication_seconds is None:
        return f"{sent}; time {ranks.communication_because}"
    return f"{sent}: {ranks.communication_seconds:.2f} s {ranks.communication_because}"
