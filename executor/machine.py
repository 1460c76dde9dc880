"""The device a run trains on: chosen from the plan, described for the report, measured its own way."""

import os
import platform

from vramplan.executor import measure_cpu, measure_cuda
from vramplan.executor.phases import PhaseMeter
from vramplan.executor.tracked import TrackedStep
from vramplan.planner.device import Device
from vramplan.planner.errors import UnsupportedError


def use_device(device: Device | None) -> str:
    """The torch device a plan trains on: ``cpu``, or ``cuda:0`` (the launcher shows the worker one GPU only).

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
    torch.cuda.set_device(0)
    return "cuda:0"


def make_meter(device: str, measured_step: int, *, track: bool = False) -> tuple[PhaseMeter, str]:
    """The meter for this device, and how it measures in words."""
    meter: PhaseMeter
    if device == "cpu":
        meter, how = measure_cpu.CpuMeter(measured_step), measure_cpu.MEASURED_BY
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
