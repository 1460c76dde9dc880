"""What the driver (NVML) tells of the GPU a worker trains on: memory in use, temperature, power, energy. No torch here.

It is read at most once a second: a power reading takes the driver up to a few milliseconds.
"""

# ruff: noqa: N802 - the protocol has NVML's own names

import os
import time
from collections.abc import Mapping
from typing import Any, Protocol

from vramplan.planner.values import Value

EVERY_SECONDS = 1.0
_GPU_TEMPERATURE = 0
"""NVML_TEMPERATURE_GPU"""


class SensorNvml(Protocol):
    """What we use of the ``pynvml`` module."""

    NVMLError: type[Exception]

    def nvmlInit(self) -> None: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...
    def nvmlDeviceGetHandleByUUID(self, uuid: str, /) -> Any: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any, /) -> Any: ...
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int, /) -> int: ...
    def nvmlDeviceGetPowerUsage(self, handle: Any, /) -> int: ...
    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, /) -> int: ...


class Climate(Value):
    """One reading; None where this GPU has no such sensor, or this user no right to read it."""

    temperature_celsius: int | None = None
    power_watts: float | None = None


class Sensors:
    """The sensors of one GPU; without a handle every reading is None."""

    def __init__(self, nvml: SensorNvml | None = None, handle: Any = None) -> None:
        self._nvml = nvml
        self._handle = handle
        self._climate = Climate()
        self._read_at = -EVERY_SECONDS
        self._began = self._energy_millijoules()

    def used_bytes(self) -> int | None:
        """Memory in use on the device, by whatever process."""
        found = self._ask("nvmlDeviceGetMemoryInfo")
        return None if found is None else int(found.used)

    def climate(self) -> Climate:
        """Temperature and power, at most ``EVERY_SECONDS`` old."""
        if self._handle is not None and time.monotonic() - self._read_at >= EVERY_SECONDS:
            self._read_at = time.monotonic()
            milliwatts = self._ask("nvmlDeviceGetPowerUsage")
            self._climate = Climate(
                temperature_celsius=self._ask("nvmlDeviceGetTemperature", _GPU_TEMPERATURE),
                power_watts=None if milliwatts is None else milliwatts / 1000,
            )
        return self._climate

    def energy_joules(self) -> float | None:
        """Used by the whole GPU since this was made; None before Volta."""
        now = self._energy_millijoules()
        return None if now is None or self._began is None else (now - self._began) / 1000

    def _energy_millijoules(self) -> int | None:
        found = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if found is None else int(found)

    def _ask(self, question: str, *arguments: Any) -> Any:
        if self._nvml is None or self._handle is None:
            return None
        try:
            return getattr(self._nvml, question)(self._handle, *arguments)
        except (self._nvml.NVMLError, AttributeError):
            return None


def find_sensors(
    environment: Mapping[str, str] = os.environ, nvml: SensorNvml | None = None, *, number: int = 0
) -> Sensors:
    """The sensors of the GPU that ``CUDA_VISIBLE_DEVICES`` shows at a place, the first; empty ones without a driver."""
    shown = environment.get("CUDA_VISIBLE_DEVICES", str(number)).split(",")
    named = shown[number] if number < len(shown) else shown[0]
    if not named:
        return Sensors()
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return Sensors()
        nvml = pynvml
    try:
        nvml.nvmlInit()
        if named.isdigit():
            return Sensors(nvml, nvml.nvmlDeviceGetHandleByIndex(int(named)))
        return Sensors(nvml, nvml.nvmlDeviceGetHandleByUUID(named))
    except (nvml.NVMLError, OSError):
        return Sensors()
