"""Devices: what is here now, and the one that a command's ``--device`` or ``--memory`` names."""

import os
import platform
import re
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from vramplan.planner.adapters.host import processor_name, read_host_memory
from vramplan.planner.adapters.nvml import Nvml, Readings, read_nvml
from vramplan.planner.adapters.profiles import describe, match_profile
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import UnknownDeviceError, UsageError
from vramplan.planner.units import format_bytes

NO_ACCELERATOR = "figures are for the CUDA route of an Ampere-class card; name one with --device"

_INDEX = re.compile(r"(?:cuda:)?(\d{1,2})")
_UUID = re.compile(r"(?:gpu|mig)-[0-9a-f-]+")


def inspect_devices(nvml: Nvml | None = None) -> Readings:
    """Every accelerator here, and why it is not more; the processor is not one. Never raises."""
    if sys.platform == "darwin" and platform.machine() == "arm64":
        return Readings(devices=(_read_apple(),))
    return read_nvml(nvml)


def read_devices(nvml: Nvml | None = None) -> tuple[Device, ...]:
    """Every accelerator here; none when there is no driver."""
    return inspect_devices(nvml).devices


def read_cpu() -> Device:
    """The processor with the memory a process here may use: RAM, or a container's limit when that is smaller."""
    memory = read_host_memory()
    return Device(
        source="reading",
        kind="cpu",
        name=processor_name(),
        total_bytes=memory.total_bytes,
        free_bytes=memory.available_bytes,
        read_at=datetime.now(UTC),
        flash_attention_2=False,
        # bitsandbytes 0.50.2, README, accelerator support: QLoRA 4-bit runs on x86-64 and arm64 processors.
        bnb_4bit=True,
    )


def resolve_device(
    text: str, *, memory_bytes: int | None, reserve_bytes: int, readings: Readings | None = None
) -> tuple[Device | None, str]:
    """The device a person means, and one sentence saying what was matched.

    Args:
        text: ``auto`` (the first accelerator here), ``cpu``, an index (``0``, ``cuda:0``), the start of a uuid, or a
            product's name, which gives its data sheet even where such a card is here.
        memory_bytes: ``--memory``: stands in for a device, taken to be an Ampere-class card; ``text`` must be ``auto``.
        reserve_bytes: ``--reserve``: kept back on whichever device it is.
        readings: what is here, where the caller has looked already.

    Raises:
        UnknownDeviceError: no such device here, or no such product, or several.
        UsageError: both a device and a memory size are given, or the product's memory is not known.
    """
    text = text.strip()
    if memory_bytes is not None:
        if text.casefold() != "auto":
            raise UsageError("--memory stands in for a device, and --device names one", remedy="leave one of them out")
        device: Device | None = _of_size(memory_bytes)
        sentence = "a size standing in for an Ampere-class card"
    elif text.casefold() == "cpu":
        device = read_cpu()
        sentence = "this machine's processor"
    elif text.casefold() == "auto":
        device, sentence = _first(inspect_devices() if readings is None else readings)
    elif _INDEX.fullmatch(text.casefold()) or _UUID.fullmatch(text.casefold()):
        device = _here(text, inspect_devices() if readings is None else readings)
        sentence = _place(device)
    else:
        device, sentence = _of_product(text)
    if device is None:
        return None, sentence
    return device.model_copy(update={"reserve_bytes": reserve_bytes}), sentence


def visible_devices(devices: Sequence[Device], setting: str | None) -> tuple[Device, ...]:
    """The devices a CUDA program started here would see, in its order.

    Args:
        setting: ``CUDA_VISIBLE_DEVICES``: None is all of them, an unknown entry hides what follows it
            (CUDA C++ Programming Guide, environment variables). Numbers are taken in PCI bus order.
    """
    if setting is None:
        return tuple(devices)
    seen: list[Device] = []
    for entry in setting.split(","):
        wanted = entry.strip()
        found = [
            device
            for device in devices
            if (wanted.isdecimal() and device.index == int(wanted) and not device.mig)
            or (_UUID.fullmatch(wanted.casefold()) and (device.uuid or "").casefold().startswith(wanted.casefold()))
        ]
        if not found:
            break
        seen += [device for device in found if device not in seen]
    return tuple(seen)


def _first(readings: Readings) -> tuple[Device | None, str]:
    seen = visible_devices(readings.devices, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if seen:
        return seen[0], f"the first accelerator here, {_place(seen[0])}"
    if readings.devices:
        return None, f"CUDA_VISIBLE_DEVICES hides every accelerator here: {NO_ACCELERATOR}"
    return None, f"no accelerator here: {NO_ACCELERATOR}"


def _here(text: str, readings: Readings) -> Device:
    wanted = text.casefold()
    number = _INDEX.fullmatch(wanted)
    if number:
        found = [device for device in readings.devices if device.index == int(number[1])]
    else:
        found = [device for device in readings.devices if (device.uuid or "").casefold().startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        choices = ", ".join(str(device.uuid) for device in found)
        raise UnknownDeviceError(f"{text!r} could be {choices}", remedy="name one of them by its uuid")
    if readings.devices:
        choices = ", ".join(f"{device.index} ({device.name})" for device in readings.devices)
        raise UnknownDeviceError(f"there is no GPU {text!r} here", remedy=f"here are: {choices}")
    why = readings.problems[0] if readings.problems else "there is none"
    raise UnknownDeviceError(f"there is no GPU {text!r} here: {why}", remedy="name a product: --device 'RTX 4090'")


def _of_product(text: str) -> tuple[Device, str]:
    profile, matched = match_profile(text)
    if profile.total_bytes is None:
        raise UsageError(f"the memory of {profile.name} is not on record", remedy="give it: --memory 24GiB")
    return device_of(profile), f"{matched}; total memory: {profile.total_basis}"


def device_of(profile: DeviceProfile) -> Device:
    """A product as a device that is not here; its total is known."""
    assert profile.total_bytes is not None
    return Device(
        source="profile",
        kind=profile.kind,
        name=profile.name,
        total_bytes=profile.total_bytes,
        free_bytes=None,
        compute_capability=profile.compute_capability,
        profile=profile.name,
        bf16_native=profile.bf16_native,
        flash_attention_2=profile.flash_attention_2,
        bnb_4bit=profile.bnb_4bit,
        architecture=profile.architecture,
        form_factor=profile.form_factor,
    )


def _of_size(memory_bytes: int) -> Device:
    return Device(
        source="memory",
        kind="cuda",
        name=format_bytes(memory_bytes),
        total_bytes=memory_bytes,
        free_bytes=None,
        bf16_native=True,
        flash_attention_2=True,
        bnb_4bit=True,
    )


def _read_apple() -> Device:
    """The GPU of an Apple chip. Its total is all RAM; how much of it Metal lends out is the system's setting."""
    memory = read_host_memory()
    reading = Device(
        source="reading",
        kind="mps",
        name=processor_name(),
        total_bytes=memory.total_bytes,
        free_bytes=memory.available_bytes,
        index=0,
        read_at=datetime.now(UTC),
    )
    return describe(reading)[0]


def _place(device: Device) -> str:
    kind = "MIG instance" if device.mig else "GPU"
    return f"{kind} {device.uuid if device.mig else device.index}"
