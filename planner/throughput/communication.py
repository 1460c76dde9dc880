"""What several GPUs add to a step: collectives over the slowest link, hidden as far as a rank computes meanwhile.

ddp       gradients all-reduced once, behind the last micro batch's backward
fsdp      weights gathered twice and gradients scattered in each micro batch, behind all of it
          (Zhao et al., 2023, arXiv:2304.11277, section 3)
zero1-3   behind nothing: one stream, and nothing gathered ahead (planner/deepspeed.py)
"""

from typing import NamedTuple

from vramplan.planner.memory.ranks import Sent


class Exchange(NamedTuple):
    """What a rank sends in a step, and over what."""

    link_bytes_per_second: float
    """Of the slowest link a collective crosses, one direction; between nodes, of a node."""
    sent: Sent
    name: str = "the link"

    def unhidden_seconds(self, link_fraction: float, busy: float, backward: float, times: int) -> float:
        """Of a step: what computing does not hide.

        Args:
            link_fraction: of the link's rate, in collectives.
            busy: seconds of a micro batch.
            backward: seconds of its backward alone.
            times: micro batches of a step.
        """
        rate = self.link_bytes_per_second * link_fraction
        sent = self.sent
        behind = busy if sent.gathers else backward
        return (
            max(0.0, sent.each_micro_batch / rate - behind) * times
            + max(0.0, sent.last_backward / rate - backward)
            + sent.after_step / rate
        )

    def seconds(self, link_fraction: float, times: int) -> float:
        """Of a step, all of it."""
        return self.sent.in_a_step(times) / (self.link_bytes_per_second * link_fraction)


def sharded(ranks: int, link_bytes_per_second: float, parameter_bytes: int) -> Exchange:
    """Fully sharded data parallelism of so many bytes of parameters, all of them trained.

    Args:
        parameter_bytes: in the dtype that is gathered.
    """
    moved = 3 * parameter_bytes * (ranks - 1) / ranks
    return Exchange(link_bytes_per_second, Sent(each_micro_batch=moved, gathers=True))
