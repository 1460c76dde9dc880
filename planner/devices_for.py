"""The question the other way round: which products are enough for a setup, the smallest and the cheapest to rent.

A price depends on a product by what its kernels are (bf16, FlashAttention, cuDNN's attention, the workspace of Hopper),
so products alike in that are priced once, and each is then compared with its own memory.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Literal

from vramplan.planner.attention import before_ampere, cudnn_first
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import VramplanError
from vramplan.planner.throughput.values import StepTime
from vramplan.planner.values import Value

HOPPER = (9, 0)
SECONDS_AN_HOUR = 3600


class Enough(Value):
    """One product on which a setup runs."""

    profile: DeviceProfile
    candidate: Candidate
    """Priced for a product of the same kernels; the budget is this one's too."""
    verdict: Literal["fits", "tight"]
    headroom_bytes: int
    time: StepTime | None = None

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Rent while a million tokens are trained; None where price or speed is not known."""
        if self.time is None or self.profile.usd_per_hour is None:
            return None
        return self.profile.usd_per_hour / SECONDS_AN_HOUR * 10**6 / self.time.tokens_per_second.typical


def enough(
    products: Sequence[tuple[DeviceProfile, Device]],
    price: Callable[[Device], Candidate],
    time: Callable[[DeviceProfile, Device, Candidate], StepTime | None],
) -> Iterator[Enough]:
    """The products a setup fits, or may fit, the smallest first.

    Args:
        products: each with the device it is.
        price: the setup's price on a device; called once for products of the same kernels. Products it raises
            VramplanError for are passed over.
        time: a step's time on a product; called for those that are enough.
    """
    priced: dict[Hashable, Candidate | None] = {}
    for profile, device in sorted(products, key=lambda each: (each[1].total_bytes, each[0].name)):
        kind = kernels(device)
        if kind not in priced:
            try:
                priced[kind] = price(device)
            except VramplanError:
                priced[kind] = None
        candidate = priced[kind]
        if candidate is None or candidate.budget.process_bytes > device.available_bytes:
            continue
        high = candidate.budget.high_process_bytes
        yield Enough(
            profile=profile,
            candidate=candidate,
            verdict="fits" if high <= device.available_bytes else "tight",
            headroom_bytes=device.available_bytes - high,
            time=time(profile, device, candidate),
        )


def kernels(device: Device) -> Hashable:
    """What of a device decides a price, its memory apart."""
    capability = device.compute_capability
    return (
        device.kind,
        device.bf16_native,
        device.flash_attention_2,
        device.bnb_4bit,
        cudnn_first(device),
        before_ampere(device),
        capability is not None and capability >= HOPPER,
    )


def cheapest(found: Sequence[Enough]) -> list[Enough]:
    """Those whose rent for the same tokens is known, the least first."""
    known = [
        (cost, each) for each in found if (cost := each.usd_per_million_tokens) is not None and each.verdict == "fits"
    ]
    return [each for _, each in sorted(known, key=lambda pair: pair[0])]
