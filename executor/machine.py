"""The device a run trains on: chosen from the plan, described for the report, measured its own way."""

import os
import platform

from vramplan.executor import measure_cpu, measure_cuda
from vramplan.executor.phases import PhaseMeter
from vramplan.executor.tracked import TrackedStep
from vramplan.planner.device import Device
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.plan import Plan


def use_device(device: Device | None, number: int = 0) -> str:
    """The torch device a plan trains on: ``cpu``, or ``cuda:0`` (the launcher shows the worker one GPU only).

    Args:
        number: of the GPU among those shown: one for each of several processes.

    Raises:
        UnsupportedError: the plan is for a GPU that torch cannot see, or for a kind we do not run on.
    """
    import torch

    kind = "cuda" if device is None else device.kind
    if kind == "cpu":
        return "cpu"
    if kind not in ("cuda", "rocm"):
        raise UnsupportedError(f"runs on {kind} are not supported", remedy="plan for a CUDA device or --device cpu")
    if not torch.cuda.is_available():
        build = f"torch {torch.__version__}"
        raise UnsupportedError(
            f"the plan is for a GPU, but {build} sees none",
            remedy="check the driver with nvidia-smi and install a CUDA build of torch, or plan with --device cpu",
        )
    torch.cuda.set_device(number)
    return f"cuda:{number}"


def cap_memory(device: str, plan: Plan, *, strict: bool) -> int | None:
    """Cap this process's memory; the cap in bytes, None where there is none.

    On CUDA it is the caching allocator's: what is free once the context stands, less the reserve. On a CPU there is one
    only when asked for: the kernel then refuses data beyond it (RLIMIT_DATA), which the process has reserved at the
    time stays allowed, and PyTorch reports that as any allocator does.

    Args:
        strict: no more than the plan's upper bound either.
    """
    if device == "cpu":
        return _cap_data(plan.budget.high_process_bytes) if strict else None
    import torch

    torch.zeros(1, device=device)  # the context, and the kernel of a fill
    free_bytes, total_bytes = torch.cuda.mem_get_info(device)
    reserve_bytes = plan.device.reserve_bytes if plan.device is not None else 0
    cap_bytes = free_bytes + torch.cuda.memory_reserved(device) - reserve_bytes
    if strict:
        cap_bytes = min(cap_bytes, plan.budget.high_reserved_bytes)
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.0, cap_bytes / total_bytes)), device)
    return int(cap_bytes)


def _cap_data(most_resident_bytes: int) -> int:
    """Allow as many bytes more as the resident set is below this; the resident set it allows."""
    import resource

    import psutil

    memory = psutil.Process().memory_info()
    left_bytes = max(0, most_resident_bytes - memory.rss)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (memory.data + left_bytes, hard))
    return int(memory.rss + left_bytes)


def make_meter(
    device: str, measured_step: int, *, track: bool = False, outside: bool = False
) -> tuple[PhaseMeter, str]:
    """The meter for this device, and how it measures in words.

    Args:
        track: also follow one step with the tracker.
        outside: on a CPU, also measure evaluation and saving, which must then be short.
    """
    meter: PhaseMeter
    if device == "cpu":
        meter, how = measure_cpu.CpuMeter(measured_step, outside=outside), measure_cpu.MEASURED_BY
    else:
        meter, how = measure_cuda.CudaMeter(measured_step), measure_cuda.MEASURED_BY
    return (TrackedStep(meter, device.partition(":")[0]) if track else meter), how


def environment(device: str) -> dict[str, str]:
    """What the bytes depend on besides the packages' versions."""
    import torch

    facts = {"device": device, "alloc_conf": os.environ.get("PYTORCH_ALLOC_CONF", "")}
    if device == "cpu":
        return {
            **facts,
            "processor": platform.processor() or platform.machine(),
            "threads": str(torch.get_num_threads()),
        }
    properties = torch.cuda.get_device_properties(device)
    return {
        **facts,
        "gpu": str(properties.name),
        "total_bytes": str(properties.total_memory),
        "compute_capability": f"{properties.major}.{properties.minor}",
        "cuda": str(torch.version.cuda),
    }
