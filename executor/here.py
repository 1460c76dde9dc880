"""The device here that a plan would run on."""

import os

from vramplan.planner.adapters.devices import read_cpu, read_devices, visible_devices
from vramplan.planner.device import Device
from vramplan.planner.plan import Plan


def device_here(plan: Plan) -> Device | None:
    """A fresh reading of the device a plan would run on, with the plan's reserve; None when there is none.

    The very card of the plan comes first, then one of the same product, then the first of the same kind: what differs
    is for drift and preflight to judge.
    """
    wanted = plan.device
    if wanted is not None and wanted.kind == "cpu":
        found: Device | None = read_cpu()
    else:
        kind = wanted.kind if wanted is not None else "cuda"
        here = visible_devices(read_devices(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        candidates = [device for device in here if device.kind == kind]
        found = min(candidates, key=lambda device: _distance(device, wanted), default=None)
    if found is None or wanted is None:
        return found
    return found.model_copy(update={"reserve_bytes": wanted.reserve_bytes})


def _distance(device: Device, wanted: Device | None) -> int:
    if wanted is None:
        return 0
    if device.uuid is not None and device.uuid == wanted.uuid:
        return 0
    return 1 if device.name == wanted.name or (device.profile and device.profile == wanted.profile) else 2
