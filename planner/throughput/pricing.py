"""The time of a question that is priced already, at the rates of its device's product and of what joins several."""

from vramplan.planner.cluster import Cluster
from vramplan.planner.device import DeviceProfile
from vramplan.planner.memory.many_gpus import ManyGpus
from vramplan.planner.memory.price import Pricing
from vramplan.planner.memory.ranks import sent_by, slowest_link
from vramplan.planner.throughput.communication import Exchange
from vramplan.planner.throughput.step_time import count, rates_of, step_time
from vramplan.planner.throughput.values import StepTime


def price_time(pricing: Pricing, profile: DeviceProfile | None, cluster: Cluster | None = None) -> StepTime | str:
    """The time of an optimizer step, or why it is not known.

    Args:
        profile: of the question's device; None where it has none.
        cluster: what joins several devices.
    """
    device = pricing.question.device
    if device is None:
        return "no device named, and its rates decide"
    if profile is None:
        return f"{device.name} has no product profile, so its rates are not known"
    if device.mig:
        return f"{device.name} is a slice of a GPU, and the rates of slices are not known"
    rates = rates_of(profile, pricing.question.setup)
    if isinstance(rates, str):
        return rates
    counted = count(pricing.question, pricing.replay, pricing.static)
    if not isinstance(pricing, ManyGpus):
        return step_time(counted, rates)
    if pricing.asked.offload != "none":
        return "how fast host memory is reached (--offload) is not known"
    link = slowest_link(cluster or Cluster(), pricing.asked.nodes)
    if isinstance(link, str):
        return link
    exchange = Exchange(link.bytes_per_second, sent_by(pricing), link.name)
    return step_time(counted, rates, exchange=exchange, ranks=pricing.world)
