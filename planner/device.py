"""Device: a dated reading of one accelerator. DeviceProfile: what the product is, from its data sheet."""

from datetime import datetime
from typing import Literal

from vramplan.planner.values import Value

DeviceKind = Literal["cuda", "rocm", "mps", "xpu", "hpu", "tpu", "cpu"]
Route = Literal["cuda", "cpu"]
"""Which implementation of each operation runs, so which temporaries exist."""


class Holder(Value):
    """A process that holds device memory; ``used_bytes`` None when the driver does not say (WDDM, MIG)."""

    pid: int
    name: str | None = None
    used_bytes: int | None = None


class DeviceProfile(Value):
    """What a product is. Every figure is per device; None is unknown. Facts and sources: hardware_profiles/."""

    name: str
    vendor: str
    kind: DeviceKind
    architecture: str
    """Marketing architecture: Ada, Hopper, RDNA3 ..."""
    total_bytes: int | None
    """What CUDA (or the vendor's runtime) reports as total, not the figure on the box."""
    total_basis: str
    """How total_bytes is known."""
    nominal_bytes: int | None = None
    """The figure on the box."""
    compute_capability: tuple[int, int] | None = None
    memory_bandwidth_bytes_per_second: int | None = None
    bf16_flops_per_second: int | None = None
    fp16_flops_per_second: int | None = None
    fp32_flops_per_second: int | None = None
    bf16_native: bool | None = None
    flash_attention_2: bool | None = None
    bnb_4bit: bool | None = None
    tdp_watts: int | None = None
    link: str | None = None
    """What joins such GPUs in one node unless somebody says otherwise: NVLink where the board has it built in."""
    link_bytes_per_second: int | None = None
    """Of one GPU, in one direction."""
    form_factor: str | None = None
    usd_per_hour: float | None = None
    usd_per_hour_on: str | None = None
    """The date of the price, ISO."""
    sources: tuple[str, ...] = ()
    notes: str | None = None


class Device(Value):
    """One accelerator as seen now (``reading``), as its data sheet has it (``profile``), or a bare size (``memory``).

    >>> from vramplan.planner.units import GIB
    >>> Device(source="memory", kind="cuda", name="12.00 GiB", total_bytes=12 * GIB, free_bytes=None).available_bytes
    12884901888
    """

    source: Literal["reading", "profile", "memory"]
    kind: DeviceKind
    name: str
    total_bytes: int
    free_bytes: int | None
    """Free now; None when this is not a reading."""
    index: int | None = None
    uuid: str | None = None
    compute_capability: tuple[int, int] | None = None
    driver_version: str | None = None
    mig: bool = False
    holders: tuple[Holder, ...] = ()
    read_at: datetime | None = None
    profile: str | None = None
    """Name of the matching DeviceProfile, when one matched."""
    bf16_native: bool | None = None
    flash_attention_2: bool | None = None
    bnb_4bit: bool | None = None
    architecture: str | None = None
    reserve_bytes: int = 0
    """Kept back for a desktop or another program (``--reserve``)."""
    form_factor: str | None = None
    """desktop, laptop, workstation, datacenter or unified-memory, where the product is known."""
    wsl: bool = False
    """Reached from inside Windows' Linux subsystem."""

    @property
    def route(self) -> Route | None:
        """Which memory programs apply; None where the kernels are not known (mps, xpu, hpu, tpu)."""
        if self.kind in ("cuda", "rocm"):
            return "cuda"
        return "cpu" if self.kind == "cpu" else None

    @property
    def available_bytes(self) -> int:
        """Free now on a device that is here, else the total; minus what is kept back."""
        base = self.total_bytes if self.free_bytes is None else self.free_bytes
        return max(0, base - self.reserve_bytes)


def share_of_rank(device: Device, gpus: int) -> Device:
    """What each of so many processes of a node has: a GPU of its own, or its part of the one processor's memory.

    >>> cpu = Device(source="memory", kind="cpu", name="CPU", total_bytes=12, free_bytes=None)
    >>> share_of_rank(cpu, 3).available_bytes
    4
    """
    if device.kind != "cpu" or gpus == 1:
        return device
    names = ("total_bytes", "free_bytes", "reserve_bytes")
    held = {name: getattr(device, name) for name in names}
    return device.model_copy(update={name: None if size is None else size // gpus for name, size in held.items()})
