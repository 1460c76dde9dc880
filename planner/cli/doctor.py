"""``vramplan doctor``: what works on this machine, and what to install for the rest."""

from collections.abc import Iterator
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vramplan.planner.adapters.installation import Installation, read_installation
from vramplan.planner.cli.render import plain, show, show_json, table, terminal_width
from vramplan.planner.errors import ExitCode
from vramplan.planner.units import GIB, format_bytes
from vramplan.planner.values import Value

TRAIN = "pip install 'vramplan[train]'"
PLAN = "pip install vramplan"
LEAST_FREE_BYTES = GIB

Need = Literal["planning", "running", "neither"]
"""What cannot be done without it; neither: it is good to know."""


class Finding(Value):
    """One thing that was looked at."""

    name: str
    ok: bool
    found: str
    needed_for: Need
    remedy: str | None = None
    """A command, or what to do."""


def add_parser(subparsers: Any) -> None:
    """Register ``doctor``."""
    parser = subparsers.add_parser("doctor", description="Say what works on this machine, and what to install.")
    parser.add_argument("--online", action="store_true", help="ask the Hub, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: Any) -> ExitCode:
    """Print what was found; an error only where planning itself is broken."""
    found = findings(read_installation(online=args.online))
    works = {need: all(each.ok for each in found if each.needed_for == need) for need in ("planning", "running")}
    works["running"] = works["running"] and works["planning"]
    if args.json:
        show_json(works | {"findings": [each.model_dump(mode="json") for each in found]})
    else:
        show(doctor_text(found, width=terminal_width()))
    return ExitCode.OK if works["planning"] else ExitCode.FAILED


def findings(here: Installation) -> tuple[Finding, ...]:
    """Every check, in the order it is shown."""
    return (
        _python(here),
        *_packages(here, extra=None),
        Finding(
            name="catalogue and programs",
            ok=here.shipped,
            found="here" if here.shipped else "incomplete",
            needed_for="planning",
            remedy=None if here.shipped else f"{PLAN} --force-reinstall",
        ),
        *_packages(here, extra="train"),
        _torch_build(here),
        *_devices(here),
        _reader(here, "pyarrow", "reads Parquet"),
        _reader(here, "jinja2", "writes conversations by a chat template"),
        *_caches(here),
        _hub(here),
    )


def doctor_text(found: tuple[Finding, ...], *, width: int) -> str:
    """A table, and below it what to do, each remedy once."""
    rows = [["", "looked at", "needed for", "found"]]
    rows += [["ok" if each.ok else "--", each.name, _need(each), each.found] for each in found]
    remedies = dict.fromkeys(plain(each.remedy) for each in found if each.remedy)
    broken = [need for need in ("planning", "running") if any(not e.ok and e.needed_for == need for e in found)]
    verdict = {
        (): "planning and running work here",
        ("running",): "planning works here; running does not yet",
    }.get(tuple(broken), "planning is broken here")
    return "\n".join([table(rows, "<<<<", width=width), "", verdict, *(f"  {remedy}" for remedy in remedies)])


def _need(finding: Finding) -> str:
    return "" if finding.needed_for == "neither" else finding.needed_for


def _python(here: Installation) -> Finding:
    ok = SpecifierSet(here.requires_python).contains(here.python, prereleases=True)
    remedy = None if ok else f"use a Python {here.requires_python}"
    return Finding(name="python", ok=ok, found=here.python, needed_for="planning", remedy=remedy)


def _packages(here: Installation, *, extra: str | None) -> Iterator[Finding]:
    for text in here.requirements:
        needed = Requirement(text)
        of_extra = needed.marker is not None and "extra" in str(needed.marker)
        wanted = needed.marker.evaluate({"extra": extra or ""}) if needed.marker is not None else True
        if not wanted or of_extra != (extra is not None) or needed.name == "vramplan":
            continue
        version = here.installed.get(needed.name)
        ok = version is not None and needed.specifier.contains(version, prereleases=True)
        asked = ", ".join(sorted(map(str, needed.specifier), reverse=True))
        yield Finding(
            name=needed.name,
            ok=ok,
            found=(version or "not installed") + ("" if ok else f"; needs {asked}"),
            needed_for="planning" if extra is None else "running",
            remedy=None if ok else PLAN if extra is None else TRAIN,
        )


def _torch_build(here: Installation) -> Finding:
    torch, has_gpu = here.installed.get("torch"), bool(here.readings.devices)
    cpu_only = torch is not None and torch.endswith("+cpu")
    if torch is None:
        return Finding(name="torch's build", ok=True, found="no torch", needed_for="neither")
    found = "for CPUs alone" if cpu_only else "for GPUs"
    bad = cpu_only and has_gpu
    remedy = "install PyTorch's CUDA build in place of the one for CPUs" if bad else None
    return Finding(name="torch's build", ok=not bad, found=found, needed_for="running", remedy=remedy)


def _devices(here: Installation) -> Iterator[Finding]:
    for device in here.readings.devices:
        driver = f", driver {device.driver_version}" if device.driver_version else ""
        free = "" if device.free_bytes is None else f"{format_bytes(device.free_bytes)} free of "
        found = f"{device.name}: {free}{format_bytes(device.total_bytes)}{driver}"
        yield Finding(name="GPU", ok=True, found=found, needed_for="neither")
    for problem in here.readings.problems:
        remedy = "without a GPU here: plan for one with --device NAME, or run with --device cpu"
        yield Finding(name="GPU", ok=False, found=problem, needed_for="neither", remedy=remedy)


def _reader(here: Installation, name: str, what: str) -> Finding:
    version = here.installed.get(name)
    found = f"{version}, {what}" if version else f"not installed; it {what}"
    return Finding(name=name, ok=bool(version), found=found, needed_for="neither", remedy=None if version else TRAIN)


def _caches(here: Installation) -> Iterator[Finding]:
    for cache in here.caches:
        roomy = cache.free_bytes >= LEAST_FREE_BYTES
        words = "" if cache.writable else ", not writable"
        yield Finding(
            name=cache.what,
            ok=cache.writable and roomy,
            found=f"{cache.path}: {format_bytes(cache.free_bytes)} free{words}",
            needed_for="neither",
            remedy=None
            if cache.writable and roomy
            else "set HF_HOME, or XDG_CACHE_HOME, to a folder with room that you may write",
        )


def _hub(here: Installation) -> Finding:
    if here.hub is None:
        return Finding(name="the Hub", ok=True, found="not asked: --online asks it", needed_for="neither")
    found, remedy = "reachable", None
    if here.hub:
        found = f"out of reach ({here.hub})"
        remedy = "the catalogue and local folders work without the Hub: vramplan models"
    return Finding(name="the Hub", ok=not here.hub, found=found, needed_for="neither", remedy=remedy)
