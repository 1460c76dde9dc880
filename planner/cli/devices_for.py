"""``vramplan devices --for MODEL``: the smallest products a setup fits, and the cheapest to rent for it."""

import argparse
from collections.abc import Hashable, Mapping
from typing import Any

from vramplan.planner.bounds import Bounds
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.ledger import method_words, model_line
from vramplan.planner.cli.options import given_options
from vramplan.planner.cli.render import paragraph, show, show_json, table, terminal_width
from vramplan.planner.cli.timing import seconds_words
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.devices_for import Enough, cheapest, enough, kernels
from vramplan.planner.errors import ExitCode, VramplanError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import given_for_method
from vramplan.planner.space import MAIN_METHODS, Cell
from vramplan.planner.throughput.values import StepTime
from vramplan.planner.units import format_bytes

SMALLEST_SHOWN, CHEAPEST_SHOWN = 6, 3
HEAD = ["device", "total", "up to", "headroom", "s a step", "USD/h", "USD/M tokens", "verdict"]
ALIGN = "<>>>>>><"
SPARE = ("headroom", "verdict", "total")


def run_for(args: argparse.Namespace) -> ExitCode:
    """Print what is enough; exit code 0 where something is.

    Raises:
        VramplanError: there is no such model, or no method of those asked for can be priced.
    """
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.adapters.tasks import model_for_task

    given = given_options(args)
    model = resolve_model(args.model, revision=args.revision)
    model = model_for_task(model, given.get("task"), given.get("num_labels"))
    named = given.get("method") is not None or given.get("quant") is not None
    wishes = [given] if named else [given_for_method(given, method) for method in MAIN_METHODS]
    found = [devices_for(model, each) for each in wishes]
    if args.json:
        show_json(
            {"model": model.repo_id, "methods": [_object(wish, each) for wish, each in zip(wishes, found, strict=True)]}
        )
    else:
        show(model_line(model))
        for wish, each in zip(wishes, found, strict=True):
            show("", _text(wish, each, width=terminal_width()))
    return ExitCode.OK if any(found) else ExitCode.FAILED


def devices_for(model: ModelSpec, given: Mapping[str, Any]) -> list[Enough]:
    """Every CUDA product that is enough for one setup, the smallest first. Products without bf16 are passed over where
    their memory program is not here yet: ``vramplan estimate`` for one of them brings it.

    Raises:
        VramplanError: the setup has no price.
    """
    from vramplan.planner.adapters.devices import device_of
    from vramplan.planner.adapters.profiles import load_profiles

    profiles = [profile for profile in load_profiles() if profile.kind == "cuda" and profile.total_bytes is not None]
    failures: list[VramplanError] = []

    def price(device: Device) -> Candidate:
        subject = subjects.subject_of(model, device)
        try:
            may_trace = device.bf16_native is not False  # others need programs of their own, a trace each
            return subjects.price(subject, subjects.complete(subject, given), with_tensors=False, may_trace=may_trace)
        except VramplanError as error:
            failures.append(error)
            raise

    bounds: dict[Hashable, Bounds | None] = {}

    def time(profile: DeviceProfile, device: Device, candidate: Candidate) -> StepTime | None:
        kind = kernels(device)
        if kind not in bounds:
            bounds[kind] = subjects.device_bounds(subjects.subject_of(model, device), {})
        known = bounds[kind]
        return None if known is None else known.time(Cell({}, candidate.workload, candidate.setup, ()), profile)

    found = list(enough([(profile, device_of(profile)) for profile in profiles], price, time))
    if not found and failures:
        raise failures[0]
    return found


def _object(given: Mapping[str, Any], found: list[Enough]) -> dict[str, Any]:
    order = {each.profile.name: place for place, each in enumerate(cheapest(found), start=1)}
    devices = [
        {
            "device": each.profile.name,
            "total_bytes": each.profile.total_bytes,
            "high_process_bytes": each.candidate.budget.high_process_bytes,
            "headroom_bytes": each.headroom_bytes,
            "verdict": each.verdict,
            "step_seconds": None if each.time is None else each.time.seconds.model_dump(),
            "usd_per_hour": each.profile.usd_per_hour,
            "usd_per_million_tokens": each.usd_per_million_tokens,
            "cheapest_place": order.get(each.profile.name),
        }
        for each in found
    ]
    setup = found[0].candidate.setup.model_dump(mode="json") if found else dict(given)
    return {"setup": setup, "devices": devices}


def _text(given: Mapping[str, Any], found: list[Enough], *, width: int) -> str:
    if not found:
        return f"{given.get('method', 'lora')}: no product known here has enough memory"
    fits = [each for each in found if each.verdict == "fits"]
    rows = [HEAD, *(_row(each) for each in fits[:SMALLEST_SHOWN])]
    first = found[0].candidate
    setup = first.setup
    title = (
        f"{method_words(setup.method)}, {first.workload.sequence_length} tokens, micro batch {setup.micro_batch_size}, "
        f"checkpointing {'on' if setup.gradient_checkpointing else 'off'}: {len(fits)} products fit; the smallest"
    )
    blocks = [paragraph(title, width=width), table(rows, ALIGN, width=width, spare=SPARE)]
    if rent := cheapest(found)[:CHEAPEST_SHOWN]:
        rows = [HEAD, *map(_row, rent)]
        blocks += ["cheapest to rent, for the same tokens", table(rows, ALIGN, width=width, spare=SPARE)]
    return "\n".join(blocks)


def _row(each: Enough) -> list[str]:
    cost = each.usd_per_million_tokens
    return [
        each.profile.name,
        format_bytes(each.profile.total_bytes or 0),
        format_bytes(each.candidate.budget.high_process_bytes),
        format_bytes(each.headroom_bytes),
        "?" if each.time is None else seconds_words(each.time),
        "?" if each.profile.usd_per_hour is None else f"{each.profile.usd_per_hour:.2f}",
        "?" if cost is None else f"{cost:.2g}",
        each.verdict,
    ]
