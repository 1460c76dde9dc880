"""NVIDIA GPUs as the driver's management library (NVML) reports them.

Which total: NVML's ``total`` is the memory fitted. CUDA never offers the part that driver and firmware keep; NVML's
second memory structure names that part ``reserved``, and ``total - reserved`` is CUDA's total within a few MiB, so that
is our total_bytes. (An A100 80 GB has 81920 MiB fitted and 81153 MiB for CUDA.) A driver older than that structure
gives the fitted memory only; then the product profile's CUDA total is taken when it is smaller.
"""

# ruff: noqa: N802, N815 - the protocol has NVML's own names

import platform
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeVar

from vramplan.planner.adapters.host import read_host_memory
from vramplan.planner.adapters.profiles import describe
from vramplan.planner.device import Device, Holder
from vramplan.planner.values import Value

Answer = TypeVar("Answer")


class Nvml(Protocol):
    """What we use of the ``pynvml`` module; a test gives an object with recorded answers."""

    NVMLError: type[Exception]
    nvmlMemory_v2: int

    def nvmlInit(self) -> None: ...
    def nvmlShutdown(self) -> None: ...
    def nvmlSystemGetDriverVersion(self) -> str: ...
    def nvmlSystemGetProcessName(self, pid: int, /) -> str: ...
    def nvmlDeviceGetCount(self) -> int: ...
    def nvmlDeviceGetHandleByIndex(self, index: int, /) -> Any: ...
    def nvmlDeviceGetName(self, handle: Any, /) -> str: ...
    def nvmlDeviceGetUUID(self, handle: Any, /) -> str: ...
    def nvmlDeviceGetCudaComputeCapability(self, handle: Any, /) -> tuple[int, int]: ...
    def nvmlDeviceGetMemoryInfo(self, handle: Any, version: int | None = None) -> Any: ...
    def nvmlDeviceGetMigMode(self, handle: Any, /) -> Any: ...
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any, /) -> int: ...
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int, /) -> Any: ...
    def nvmlDeviceGetComputeRunningProcesses(self, handle: Any, /) -> Any: ...
    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: Any, /) -> Any: ...


class Readings(Value):
    """What is here, and why it is not more."""

    devices: tuple[Device, ...] = ()
    problems: tuple[str, ...] = ()
    """One sentence for each thing that could not be read."""


class _Memory(NamedTuple):
    total_bytes: int
    free_bytes: int
    fitted: bool = False
    """The total is the memory fitted: more than CUDA offers."""


def read_nvml(nvml: Nvml | None = None) -> Readings:
    """Every NVIDIA GPU, or every MIG instance of a GPU cut into those. Never raises: no driver means no devices.

    A MIG instance has its GPU's index; its uuid tells it apart. Indices are NVML's (PCI bus order), which CUDA's need
    not be: choose a device for a process by uuid.
    """
    if nvml is None:
        try:
            import pynvml
        except ImportError:
            return Readings(problems=("nvidia-ml-py is not installed, so NVIDIA GPUs cannot be read",))
        nvml = pynvml
    try:
        nvml.nvmlInit()
    except (nvml.NVMLError, OSError) as error:
        return Readings(problems=(f"no NVIDIA driver answers: {error}",))
    try:
        return _read_all(nvml)
    finally:
        with suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read_all(nvml: Nvml) -> Readings:
    devices: list[Device] = []
    problems: list[str] = []
    driver = _ask(nvml, nvml.nvmlSystemGetDriverVersion)
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return Readings(problems=(f"the NVIDIA driver does not list its GPUs: {error}",))
    for index in range(count):
        try:
            devices += _read_gpu(nvml, index, driver)
        except nvml.NVMLError as error:
            problems.append(f"GPU {index} could not be read: {error}")
    return Readings(devices=tuple(devices), problems=tuple(problems))


def _read_gpu(nvml: Nvml, index: int, driver: str | None) -> list[Device]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    capability = _ask(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    mode = _ask(nvml, nvml.nvmlDeviceGetMigMode, handle)
    is_mig = mode is not None and mode[0] == 1
    return [
        _read_device(nvml, part, index=index, capability=capability, driver=driver, mig=is_mig)
        for part in (_mig_instances(nvml, handle) if is_mig else [handle])
    ]


def _mig_instances(nvml: Nvml, handle: Any) -> list[Any]:
    places = range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
    found = (_ask(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, place) for place in places)
    return [instance for instance in found if instance is not None]


def _read_device(
    nvml: Nvml, handle: Any, *, index: int, capability: tuple[int, int] | None, driver: str | None, mig: bool
) -> Device:
    memory = _read_memory(nvml, handle)
    device = Device(
        source="reading",
        kind="cuda",
        name=_printable(nvml.nvmlDeviceGetName(handle)),
        total_bytes=memory.total_bytes,
        free_bytes=memory.free_bytes,
        index=index,
        uuid=nvml.nvmlDeviceGetUUID(handle),
        compute_capability=capability,
        driver_version=driver,
        mig=mig,
        holders=_read_holders(nvml, handle),
        read_at=datetime.now(UTC),
        wsl="microsoft" in platform.release().casefold(),
    )
    return _described(device, fitted=memory.fitted)


def _read_memory(nvml: Nvml, handle: Any) -> _Memory:
    try:
        second = nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2)
        return _Memory(total_bytes=second.total - second.reserved, free_bytes=second.free)
    except nvml.NVMLError:
        pass
    try:
        first = nvml.nvmlDeviceGetMemoryInfo(handle)
        return _Memory(total_bytes=first.total, free_bytes=first.free, fitted=True)
    except nvml.NVMLError as error:
        if type(error).__name__ != "NVMLError_NotSupported":
            raise
    # A GPU that shares the CPU's memory (DGX Spark, Jetson) has none of its own to report.
    host = read_host_memory()
    return _Memory(total_bytes=host.total_bytes, free_bytes=host.available_bytes)


def _read_holders(nvml: Nvml, handle: Any) -> tuple[Holder, ...]:
    """Who holds memory, most first; empty when the driver does not let us see."""
    used: dict[int, int | None] = {}
    for ask in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in _ask(nvml, ask, handle) or []:
            if used.get(process.pid) is None:
                used[process.pid] = process.usedGpuMemory
    holders = (Holder(pid=pid, name=_process_name(nvml, pid), used_bytes=size) for pid, size in used.items())
    return tuple(sorted(holders, key=lambda holder: (-(holder.used_bytes or 0), holder.pid)))


def _process_name(nvml: Nvml, pid: int) -> str | None:
    text = _ask(nvml, nvml.nvmlSystemGetProcessName, pid)
    if text is None:
        return None
    command = _printable(text)
    program = command.split(" ")[0] if command.startswith("/") else command
    return re.split(r"[\\/]", program)[-1] or None


def _described(device: Device, *, fitted: bool) -> Device:
    """With the facts of its product, or else those its compute capability implies."""
    described, profile = describe(device)
    if fitted and not device.mig and profile is not None and profile.total_bytes is not None:
        total = min(device.total_bytes, profile.total_bytes)
        free = None if device.free_bytes is None else min(device.free_bytes, total)
        return described.model_copy(update={"total_bytes": total, "free_bytes": free})
    return described


def _ask(nvml: Nvml, question: Callable[..., Answer], *arguments: Any) -> Answer | None:
    """The answer, or None when this driver, this GPU or this user's rights do not give one."""
    try:
        return question(*arguments)
    except nvml.NVMLError:
        return None


def _printable(text: str) -> str:
    """Without control characters: a name must not speak to the terminal."""
    return "".join(character for character in text if character.isprintable()).strip()
