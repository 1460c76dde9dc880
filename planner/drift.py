"""How the world differs from what a plan was made for. The caller did the looking; nothing here reads anything.

Identity: a plan is for a product, never for one card of it, so another card of the same product warns and another
product blocks. A plan for a bare size (``--memory``) is for any device of its kind. Less memory blocks only when the
budget's upper bound no longer fits.
"""

from collections.abc import Iterator, Mapping

from vramplan.planner.device import Device, share_of_rank
from vramplan.planner.plan import Drift, Plan, PlannedData
from vramplan.planner.units import format_bytes


def check_drift(
    plan: Plan,
    *,
    device: Device | None,
    packages: Mapping[str, str],
    data: PlannedData | None = None,
    model_config_sha256: str | None = None,
    revision_exists: bool | None = None,
    newest_revision: str | None = None,
    repriced_process_bytes: int | None = None,
    verified: bool = False,
) -> tuple[Drift, ...]:
    """Compare a plan with the world; what blocks comes first.

    Args:
        device: the device the run would use, as read now; None when there is none here.
        packages: installed versions by distribution name.
        data: the training file as it is now; None when nobody looked.
        model_config_sha256: of the canonical JSON of the model's config as it is now; None when nobody looked.
        revision_exists: whether the Hub still has the plan's revision; None when nobody looked.
        newest_revision: the model's newest commit; None when nobody looked.
        repriced_process_bytes: the estimate made anew with what is installed; None when nobody made one.
        verified: a few real steps of this plan passed on this device, so a tight fit may run.
    """
    drifts = [
        *_device(plan, device),
        *_memory(plan, device, verified),
        *_data(plan, data),
        *_model(plan, model_config_sha256, revision_exists, newest_revision),
        *_repriced(plan, repriced_process_bytes),
        *_packages(plan, packages),
    ]
    return tuple(sorted(drifts, key=lambda drift: drift.severity != "blocks"))


def _device(plan: Plan, device: Device | None) -> Iterator[Drift]:
    planned = plan.device
    if planned is None:
        return
    if device is None:
        remedy = "run it where that device is, or plan again for what is here: vramplan devices"
        yield Drift(what="device", planned=planned.name, found="none here", severity="blocks", remedy=remedy)
        return
    remedy = f"plan again for this device: vramplan plan {_model_text(plan)}"
    if planned.kind != device.kind:
        found = f"{device.name} ({device.kind})"
        yield Drift(what="device", planned=planned.name, found=found, severity="blocks", remedy=remedy)
        return
    if planned.source != "memory" and _product(planned) != _product(device):
        severity = "warns" if planned.kind == "cpu" else "blocks"
        yield Drift(what="device", planned=planned.name, found=device.name, severity=severity, remedy=remedy)
        return
    if planned.uuid is not None and device.uuid is not None and planned.uuid != device.uuid:
        remedy = "another card of the same product: nothing to do"
        yield Drift(what="uuid", planned=planned.uuid, found=device.uuid, severity="warns", remedy=remedy)
    if planned.driver_version and device.driver_version and planned.driver_version != device.driver_version:
        yield Drift(
            what="driver",
            planned=planned.driver_version,
            found=device.driver_version,
            severity="warns",
            remedy="its context may differ in size; plan again to price it anew",
        )


def _memory(plan: Plan, device: Device | None, verified: bool) -> Iterator[Drift]:
    if device is None:
        return
    device = share_of_rank(device, plan.setup.gpus)
    available, budget = device.available_bytes, plan.budget
    free = f"{format_bytes(available)} free of {format_bytes(device.total_bytes)}"
    holders = ", ".join(f"{holder.name or 'a process'} ({holder.pid})" for holder in device.holders)
    remedy = f"stop what holds it: {holders}" if holders else "free some, or plan a smaller setup: vramplan recommend"
    needed = budget.process_bytes
    if plan.device is not None and plan.verdict == "tight":  # in those bytes it was, its cache given back if need be
        needed = min(needed, plan.device.available_bytes)
    if available < needed:
        needs = f"{format_bytes(needed)} needed"
        yield Drift(what="memory", planned=needs, found=free, severity="blocks", remedy=remedy)
    elif available < budget.high_process_bytes:
        needs = f"up to {format_bytes(budget.high_process_bytes)} needed"
        severity = "warns" if verified else "blocks"
        yield Drift(what="memory", planned=needs, found=f"tight: {free}", severity=severity, remedy=remedy)
    elif plan.device is not None and device.total_bytes < plan.device.total_bytes // _sharing(plan):
        yield Drift(
            what="total-memory",
            planned=format_bytes(plan.device.total_bytes),
            found=format_bytes(device.total_bytes),
            severity="warns",
            remedy="it still fits: nothing to do",
        )


def _data(plan: Plan, data: PlannedData | None) -> Iterator[Drift]:
    if plan.data is not None and data is not None and plan.data.sha256 != data.sha256:
        yield Drift(
            what="data",
            planned=f"{plan.data.path} {plan.data.sha256[:12]} ({format_bytes(plan.data.size_bytes)})",
            found=f"{data.path} {data.sha256[:12]} ({format_bytes(data.size_bytes)})",
            severity="blocks",
            remedy="restore the file, or plan again with the new one",
        )


def _model(
    plan: Plan, config_sha256: str | None, revision_exists: bool | None, newest_revision: str | None
) -> Iterator[Drift]:
    again = f"plan again: vramplan plan {_model_text(plan)}"
    if config_sha256 is not None and config_sha256 != plan.model.config_sha256:
        yield Drift(
            what="model-config",
            planned=plan.model.config_sha256[:12],
            found=config_sha256[:12],
            severity="blocks",
            remedy=again,
        )
    revision = plan.model.revision
    if revision is not None and revision_exists is False:
        yield Drift(what="revision", planned=revision, found="gone from the Hub", severity="blocks", remedy=again)
    elif revision is not None and newest_revision is not None and newest_revision != revision:
        remedy = "the run uses the planned commit; plan again for the newer one"
        yield Drift(what="newer-revision", planned=revision, found=newest_revision, severity="warns", remedy=remedy)


def _repriced(plan: Plan, process_bytes: int | None) -> Iterator[Drift]:
    high = plan.budget.high_process_bytes
    if process_bytes is not None and process_bytes > high:
        yield Drift(
            what="price",
            planned=f"up to {format_bytes(high)}",
            found=f"{format_bytes(process_bytes)} with what is installed now",
            severity="blocks",
            remedy=f"plan again: vramplan plan {_model_text(plan)}",
        )


def _packages(plan: Plan, packages: Mapping[str, str]) -> Iterator[Drift]:
    for name, planned in sorted(plan.packages.items()):
        found = packages.get(name)
        # What follows + is the build (cpu, cu130), which does not change what is allocated.
        if found is not None and found.partition("+")[0] != planned.partition("+")[0]:
            remedy = f"pip install {name}=={planned.partition('+')[0]}, or plan again"
            yield Drift(what=name, planned=planned, found=found, severity="warns", remedy=remedy)


def _sharing(plan: Plan) -> int:
    """How many processes share the planned device."""
    return plan.setup.gpus if plan.device is not None and plan.device.kind == "cpu" else 1


def _product(device: Device) -> str:
    return (device.profile or device.name).casefold()


def _model_text(plan: Plan) -> str:
    return plan.model.path or plan.model.repo_id
