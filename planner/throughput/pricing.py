"""The time of a question that is priced already, at the rates of its device's product."""

from vramplan.planner.device import DeviceProfile
from vramplan.planner.memory.price import Pricing
from vramplan.planner.throughput.step_time import count, rates_of, step_time
from vramplan.planner.throughput.values import StepTime


def price_time(pricing: Pricing, profile: DeviceProfile | None) -> StepTime | str:
    """The time of an optimizer step, or why it is not known.

    Args:
        profile: of the question's device; None where it has none.
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
    return step_time(count(pricing.question, pricing.replay, pricing.static), rates)
