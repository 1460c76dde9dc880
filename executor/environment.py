"""The environment a worker starts in: the caller's, without what would change the planned run, with what pins it."""

from collections.abc import Mapping, Sequence

from vramplan.executor.reporting import reporting_environment
from vramplan.planner.deepspeed import stage_of
from vramplan.planner.device import Device
from vramplan.planner.plan import Plan

_DISTRIBUTED = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""A launcher's variables: the trainer would join a group the plan knows nothing of."""
ALWAYS = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TQDM_DISABLE": "1",
    "PYTHONUNBUFFERED": "1",
}
"""Idle OpenMP threads sleep (spinning ones made a contended two-thread run fifteen times slower); nothing is reported
to anyone; no progress bars in worker.log."""


def worker_environment(
    plan: Plan, device: Device | None, inherited: Mapping[str, str], *, ranks: Sequence[Device] = ()
) -> dict[str, str]:
    """Environment variables of the worker.

    Args:
        device: the reading of the device to run on; it alone is visible. None: as inherited.
        inherited: the caller's environment, usually ``os.environ``.
        ranks: the devices of several processes, which are then visible, each rank using the one of its number.
    """
    kept = {
        name: value
        for name, value in inherited.items()
        if name not in _DISTRIBUTED and not name.startswith(("ACCELERATE_", "FSDP_", "TORCHELASTIC_", "TORCH_ELASTIC_"))
    }
    alloc_conf = plan.setup.alloc_conf
    pinned = {**ALWAYS, "PYTORCH_ALLOC_CONF": alloc_conf, "PYTORCH_CUDA_ALLOC_CONF": alloc_conf}
    if plan.model.path is not None:
        pinned["HF_HUB_OFFLINE"] = "1"
    pinned |= reporting_environment(plan.recipe, inherited)
    if stage_of(plan.setup):
        pinned |= {"DS_ACCELERATOR": "cpu"} if device is not None and device.kind == "cpu" else {}
    if device is not None:
        pinned["CUDA_VISIBLE_DEVICES"] = ",".join(dict.fromkeys(_visible(each) for each in ranks or (device,)))
    return {**kept, **pinned}


def _visible(device: Device) -> str:
    if device.kind == "cpu":
        return ""
    return device.uuid or ("0" if device.index is None else str(device.index))
