"""The device here that a plan would run on."""

import os

from vramplan.planner.adapters.devices import read_cpu, read_devices, visible_devices
from vramplan.planner.device import Device
from vramplan.planner.plan import Plan


def device_here(plan: Plan) -> Device | None:
    """A fresh reading of the device a plan would run on, with the plan's reserve; None when there is none.

    Of several, the one with the least memory free: its rank decides whether the run fits.
    """
    return min(devices_here(plan), key=lambda device: device.available_bytes, default=None)


def devices_here(plan: Plan) -> tuple[Device, ...]:
    """The devices a plan would run on, one for each rank; fewer where there are fewer.

    The very card of the plan comes first, then those of the same product, then others of the same kind, of alike ones
    those with the most memory free: what differs is for drift and preflight to judge. On a CPU all ranks share one.
    """
    wanted = plan.device
    if wanted is not None and wanted.kind == "cpu":
        found = [read_cpu()]
    else:
        kind = wanted.kind if wanted is not None else "cuda"
        here = visible_devices(read_devices(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        candidates = [device for device in here if device.kind == kind]
        found = sorted(candidates, key=lambda device: _order(device, plan))[: plan.setup.gpus]
    if wanted is None:
        return tuple(found)
    return tuple(device.model_copy(update={"reserve_bytes": wanted.reserve_bytes}) for device in found)


def _order(device: Device, plan: Plan) -> tuple[int, int]:
    free = device.available_bytes if plan.setup.world_size > 1 else 0
    return _distance(device, plan.device), -free


def _distance(device: Device, wanted: Device | None) -> int:
    if wanted is None:
        return 0
    if device.uuid is not None and device.uuid == wanted.uuid:
        return 0
    return 1 if device.name == wanted.name or (device.profile and device.profile == wanted.profile) else 2
