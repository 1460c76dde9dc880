"""``vramplan devices``: what is here, who holds its memory, and the products known by name."""

from typing import Any

from vramplan.planner.adapters.devices import inspect_devices, read_cpu
from vramplan.planner.adapters.profiles import match_profile, search_profiles
from vramplan.planner.cli.options import PLACE, SETUP, add_each, given_options
from vramplan.planner.cli.render import joined, paragraph, show, show_json, table, tell, terminal_width
from vramplan.planner.device import Device, DeviceProfile, Holder
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.units import format_gib


def add_parser(subparsers: Any) -> None:
    """Register ``devices``."""
    parser = subparsers.add_parser("devices", description="Show what is here, and the cards known by name.")
    parser.add_argument("query", nargs="*", metavar="QUERY", help="words of a product's name, such as rtx 40")
    parser.add_argument(
        "--for", dest="model", metavar="MODEL", help="the smallest and cheapest products that are enough for a model"
    )
    add_each(parser, (*(option for option in PLACE if option.name == "revision"), *SETUP))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: Any) -> ExitCode:
    """Print readings and profiles.

    Raises:
        UnknownDeviceError: a query was given and no product has those words.
    """
    if args.model is not None:
        from vramplan.planner.cli.devices_for import run_for

        return run_for(args)
    if unused := given_options(args):
        name = next(iter(unused)).replace("_", "-")
        raise UsageError(f"--{name} says what a model is trained with", remedy="add --for MODEL")
    query = " ".join(args.query)
    profiles = search_profiles(query) or (match_profile(query)[0],)
    readings, processor = inspect_devices(), read_cpu()
    if args.json:
        show_json(
            {
                "devices": [device.model_dump(mode="json") for device in readings.devices],
                "processor": processor.model_dump(mode="json"),
                "problems": list(readings.problems),
                "profiles": [profile.model_dump(mode="json") for profile in profiles],
            }
        )
        return ExitCode.OK
    width = terminal_width()
    tell(*readings.problems)
    show("here", _here_table((*readings.devices, processor), width=width), "")
    if len(profiles) == 1:
        show(profile_text(profiles[0], width=width))
    else:
        show(f"{len(profiles)} products", _profile_table(profiles, width=width))
    return ExitCode.OK


def profile_text(profile: DeviceProfile, *, width: int) -> str:
    """One product: its figures, how its total is known, and the source of every fact."""
    facts = joined(
        (
            profile.architecture,
            "" if profile.compute_capability is None else f"compute capability {capability_words(profile)}",
            f"{_gib(profile.nominal_bytes)} GiB on the box",
            f"{gigabytes_a_second(profile.memory_bandwidth_bytes_per_second)} GB/s",
            "no bf16" if profile.bf16_native is False else f"bf16 {bf16_teraflops(profile)} TFLOPS",
            "" if profile.tdp_watts is None else f"{profile.tdp_watts} W",
            "" if profile.usd_per_hour is None else f"{profile.usd_per_hour} USD/h on {profile.usd_per_hour_on}",
        )
    )
    lines = [
        profile.name,
        paragraph(f"{_gib(profile.total_bytes)} GiB: {profile.total_basis}", width=width, first="  total    "),
        paragraph(facts, width=width, first="  facts    "),
        *([paragraph(profile.notes, width=width, first="  notes    ")] if profile.notes else []),
        *(paragraph(source, width=width, first="  source   ") for source in profile.sources),
    ]
    return "\n".join(lines)


def _here_table(devices: tuple[Device, ...], *, width: int) -> str:
    head = ["", "device", "total GiB", "free GiB", "held by"]
    rows = [
        [_place(device), device.name, format_gib(device.total_bytes), _gib(device.free_bytes), held_by(device.holders)]
        for device in devices
    ]
    return table([head, *rows], "><>><", width=width)


def _place(device: Device) -> str:
    if device.index is None:
        return "CPU"
    return f"{device.index} (MIG)" if device.mig else str(device.index)


def held_by(holders: tuple[Holder, ...]) -> str:
    """Who holds memory of a device, and how much."""
    return ", ".join(
        f"{holder.name or 'process'} {holder.pid}"
        + ("" if holder.used_bytes is None else f": {format_gib(holder.used_bytes)}")
        for holder in holders
    )


def _profile_table(profiles: tuple[DeviceProfile, ...], *, width: int) -> str:
    head = ["name", "total GiB", "GB/s", "bf16 TFLOPS", "capability", "total is"]
    rows = [
        [
            profile.name,
            _gib(profile.total_bytes),
            gigabytes_a_second(profile.memory_bandwidth_bytes_per_second),
            bf16_teraflops(profile),
            capability_words(profile),
            "estimated" if profile.total_basis.startswith("estimate") else "reported",
        ]
        for profile in profiles
    ]
    return table([head, *rows], "<>>>><", width=width)


def capability_words(profile: DeviceProfile) -> str:
    """A product's compute capability; empty where it has none."""
    return "" if profile.compute_capability is None else ".".join(map(str, profile.compute_capability))


def _gib(size_bytes: int | None) -> str:
    return "?" if size_bytes is None else format_gib(size_bytes)


def gigabytes_a_second(rate: int | None) -> str:
    """A bandwidth for a column."""
    return "?" if rate is None else f"{rate / 10**9:.0f}"


def bf16_teraflops(profile: DeviceProfile) -> str:
    """How fast a product multiplies in bf16, in TFLOPS."""
    if profile.bf16_flops_per_second is not None:
        return f"{profile.bf16_flops_per_second / 10**12:.1f}"
    return "none" if profile.bf16_native is False else "?"
