"""Product profiles: the rows of ``hardware_profiles`` as DeviceProfile, and the product a text means.

How a text is matched, in this order:

1. It is a product's full name, or a name its driver reports: that product.
2. Otherwise both sides are cut into words (``rtx4090`` -> rtx, 4090; ``80GB`` -> 80gb). A product matches when it has
   every word asked for; brand words count for nothing. Of those that match, the ones with the fewest words *not* asked
   for stay, so ``4090`` is the RTX 4090 and not its laptop or D variant. Memory size, slot and cooling variants
   (PCIe, SXM, workstation, server) do not count as words not asked for.
3. Several left, all one product with one memory size on the box: the one with the smallest total, and the answer says
   so. A reading's own total decides first when there is one. Anything else is refused, and the choices are listed.
"""

import re
from collections.abc import Iterable
from difflib import SequenceMatcher
from functools import cache
from typing import Any, NamedTuple

from vramplan.hardware_profiles.loader import ProfileRow, load_rows, load_sources
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import UnknownDeviceError
from vramplan.planner.units import GIB, MIB, format_bytes

BRAND_WORDS = frozenset(
    {"nvidia", "geforce", "tesla", "nvgpu", "amd", "radeon", "instinct", "intel", "apple", "google", "cloud"}
) | {"accelerator", "edition", "gcd", "generation", "gpu", "graphics", "per"}
VARIANT_WORDS = frozenset(["pcie", "sxm", "sxm2", "sxm4", "sxm5", "sxm6", "workstation", "server"])

_GLUED = (
    (re.compile(r"\b(\d+)\s*g(?:i?b)?\b"), r"\1gb"),
    (re.compile(r"\b(rtx|gtx|rx|quadro|titan|gaudi|tpu)(?=[a-z]?\d)"), r"\1 "),
    (re.compile(r"(?<=\d{4})(ti|super|xtx|xt|gre|d)(super)?\b"), r" \1 \2"),
    (re.compile(r"\b(m\d)(pro|max|ultra)\b"), r"\1 \2"),
)
_WORD = re.compile(r"[a-z0-9]+")
_MIG_NAME = re.compile(r" MIG \S+$")
_SIZE_WORD = re.compile(r"\d+gb")

_MEMORY_TOLERANCE = 0.08
"""A reading is of a product when their totals differ by less: ECC and the driver take up to 7 %."""


class Names(NamedTuple):
    """A profile with the words it can be asked for by."""

    profile: DeviceProfile
    full: frozenset[str]
    """Whole names, casefolded."""
    words: tuple[frozenset[str], ...]
    """One set for each name."""


@cache
def load_profiles() -> tuple[DeviceProfile, ...]:
    """Every product we know, in the order of the files; read once, at the first call."""
    return tuple(_profile(row) for row in load_rows())


def profile_of(device: Device | None) -> DeviceProfile | None:
    """The data sheet of a device's product, where it has one."""
    return None if device is None or device.profile is None else match_profile(device.profile)[0]


def match_profile(text: str, *, total_bytes: int | None = None) -> tuple[DeviceProfile, str]:
    """The product that ``text`` means, and one sentence saying what was matched and how.

    Args:
        text: a driver's name or the short name people type.
        total_bytes: the total a reading gave; it tells products of one name apart (RTX 3080 with 10 or 12 GB).

    Raises:
        UnknownDeviceError: no product matches (the nearest names are the remedy), or several do.
    """
    if named := _named(text, total_bytes):
        return named, f"{named.name}, by its name"
    found = _best(words_of(text))
    if not found:
        raise _unknown(text)
    if total_bytes is not None and len(found) > 1:
        found = [names for names in found if _is_near(names.profile, total_bytes)] or found
        nearest = min(abs((names.profile.total_bytes or 0) - total_bytes) for names in found)
        found = [names for names in found if abs((names.profile.total_bytes or 0) - total_bytes) == nearest]
    profiles = [names.profile for names in found]
    if len(profiles) == 1:
        return profiles[0], f"{text!r} is {profiles[0].name}"
    if len({(_identity(names), names.profile.nominal_bytes) for names in found}) > 1:
        raise _ambiguous(text, profiles)
    chosen = min(profiles, key=lambda profile: profile.total_bytes or 0)
    others = ", ".join(profile.name for profile in profiles if profile is not chosen)
    same = len({profile.total_bytes for profile in profiles}) == 1
    why = "with the same memory" if same else "with more memory"
    return chosen, f"{text!r} is taken as {chosen.name}; there is also {others}, {why}"


def describe(device: Device) -> tuple[Device, DeviceProfile | None]:
    """A reading with the facts of its product; where none matches, with those its compute capability implies.

    A MIG instance has its GPU's facts, but neither its memory nor its name.
    """
    name = _MIG_NAME.sub("", device.name)
    try:
        profile, _ = match_profile(name, total_bytes=None if device.mig else device.total_bytes)
    except UnknownDeviceError:
        return device.model_copy(update=_implied(device.compute_capability)), None
    facts = {
        "profile": profile.name,
        "architecture": profile.architecture,
        "bf16_native": profile.bf16_native,
        "flash_attention_2": profile.flash_attention_2,
        "bnb_4bit": profile.bnb_4bit,
        "form_factor": profile.form_factor,
    }
    return device.model_copy(update=facts), profile


def search_profiles(query: str) -> tuple[DeviceProfile, ...]:
    """Every product with a word beginning with each word of the query, brands too; all of them for an empty query."""
    asked = _cut(query)
    return tuple(
        names.profile
        for names in _all_names()
        if all(any(word.startswith(part) for name in names.full for word in _cut(name)) for part in asked)
    )


def words_of(text: str) -> frozenset[str]:
    """The words of a name, without brands.

    >>> sorted(words_of("NVIDIA A100-SXM4-80GB"))
    ['80gb', 'a100', 'sxm', 'sxm4']
    >>> sorted(words_of("rtx4060ti 16 GB"))
    ['16gb', '4060', 'rtx', 'ti']
    """
    words = _cut(text) - BRAND_WORDS
    return words | {"sxm"} if any(word.startswith("sxm") for word in words) else words


def _cut(text: str) -> frozenset[str]:
    text = text.lower().replace("(r)", " ").replace("(tm)", " ")
    for pattern, replacement in _GLUED:
        text = pattern.sub(replacement, text)
    return frozenset(_WORD.findall(text))


def _implied(capability: tuple[int, int] | None) -> dict[str, str | bool | None]:
    """bf16 units and FlashAttention 2 come with 8.0, bitsandbytes' 4-bit kernels with 6.0 (their READMEs)."""
    if capability is None:
        return {}
    peers = (profile.architecture for profile in load_profiles() if profile.compute_capability == capability)
    return {
        "architecture": next(peers, None),
        "bf16_native": capability >= (8, 0),
        "flash_attention_2": capability >= (8, 0),
        "bnb_4bit": capability >= (6, 0),
    }


def _profile(row: ProfileRow) -> DeviceProfile:
    major_minor = None if row.compute_capability is None else row.compute_capability.split(".")
    return DeviceProfile(
        name=row.name,
        vendor=row.vendor,
        kind=row.kind,
        architecture=row.architecture,
        total_bytes=None if row.total_mib is None else row.total_mib * MIB,
        total_basis=row.total_basis or "unknown",
        nominal_bytes=row.nominal_gib * GIB,
        compute_capability=None if major_minor is None else (int(major_minor[0]), int(major_minor[1])),
        memory_bandwidth_bytes_per_second=_whole(row.memory_bandwidth_gb_per_second, 10**9),
        bf16_flops_per_second=_whole(row.bf16_tflops, 10**12),
        fp16_flops_per_second=_whole(row.fp16_tflops, 10**12),
        fp32_flops_per_second=_whole(row.fp32_tflops, 10**12),
        bf16_native=row.bf16,
        flash_attention_2=row.flash_attention_2,
        bnb_4bit=row.bnb_4bit,
        tdp_watts=row.tdp_watts,
        **_link(row),
        form_factor=row.form_factor,
        usd_per_hour=None if row.price is None else row.price.usd_per_hour,
        usd_per_hour_on=None if row.price is None else row.price.on,
        sources=tuple(_source_lines(row)),
        notes=row.notes,
    )


_PCIE_GB_PER_SECOND = {"3.0": 15.75, "4.0": 31.5, "5.0": 63.0, "6.0": 121.0}
"""Of 16 lanes in one direction (PCI-SIG; hardware_profiles/interconnects.json)."""


def _link(row: ProfileRow) -> dict[str, Any]:
    """NVLink of boards that are built with it; between cards in slots it is a bridge that few have, so PCIe."""
    bridged = row.form_factor != "datacenter" or {"pcie", "nvl"} & set(row.name.lower().split())
    if row.nvlink_gb_per_second is not None and not bridged:
        return {"link": "NVLink", "link_bytes_per_second": round(row.nvlink_gb_per_second / 2 * 10**9)}
    version, _, lanes = (row.pcie or "").partition(" x")
    if version not in _PCIE_GB_PER_SECOND or not lanes.isdigit():
        return {}
    rate = _PCIE_GB_PER_SECOND[version] * int(lanes) / 16
    return {"link": f"PCIe {version} x{lanes}", "link_bytes_per_second": round(rate * 10**9)}


def _whole(figure: float | None, unit: int) -> int | None:
    return None if figure is None else round(figure * unit)


def _source_lines(row: ProfileRow) -> Iterable[str]:
    for name in dict.fromkeys(row.sources.values()):
        source = load_sources()[name]
        facts = ", ".join(fact for fact, its_source in row.sources.items() if its_source == name)
        checked = "" if source.checked is None else f" (checked {source.checked.isoformat()})"
        yield f"{facts}: {source.title}{checked}"
    if row.price is not None:
        yield f"price: {row.price.source} ({row.price.on})"


@cache
def _all_names() -> tuple[Names, ...]:
    return tuple(
        Names(
            profile,
            frozenset(name.casefold() for name in (row.name, *row.aliases)),
            tuple(words_of(name) | {f"{row.nominal_gib}gb"} for name in (row.name, *row.aliases)),
        )
        for profile, row in zip(load_profiles(), load_rows(), strict=True)
    )


def _named(text: str, total_bytes: int | None) -> DeviceProfile | None:
    wanted = " ".join(text.casefold().split())
    for names in _all_names():
        if wanted in names.full and (total_bytes is None or _is_near(names.profile, total_bytes)):
            return names.profile
    return None


def _is_near(profile: DeviceProfile, total_bytes: int) -> bool:
    known = profile.total_bytes
    return known is not None and abs(known - total_bytes) <= _MEMORY_TOLERANCE * known


def _best(asked: frozenset[str]) -> list[Names]:
    """Of the products that have every word asked for, those with the fewest words beside them."""
    matches = [
        (len(_distinguishing(words - asked)), names)
        for names in _all_names()
        for words in names.words
        if asked <= words
    ]
    if not asked or not matches:
        return []
    fewest = min(extra for extra, _ in matches)
    return list({names.profile.name: names for extra, names in matches if extra == fewest}.values())


def _distinguishing(words: frozenset[str]) -> frozenset[str]:
    return frozenset(word for word in words - VARIANT_WORDS if not _SIZE_WORD.fullmatch(word))


def _identity(names: Names) -> frozenset[str]:
    return _distinguishing(names.words[0])


def _unknown(text: str) -> UnknownDeviceError:
    near = _nearest(text)
    offer = f"nearest: {', '.join(near)}" if near else "vramplan devices lists the known ones"
    return UnknownDeviceError(
        f"no device profile is called {text!r}", remedy=f"{offer}; a bare size will do too: --memory 24GiB"
    )


def _nearest(text: str, limit: int = 3) -> list[str]:
    """The names whose words are spelt most like those of the text, memory sizes aside."""
    asked = _distinguishing(words_of(text))
    scored = []
    for names in _all_names():
        likeness = [max(SequenceMatcher(None, word, known).ratio() for known in names.words[0]) for word in asked]
        if likeness and max(likeness) > 0.7:
            scored.append((-sum(likeness), len(names.profile.name), names.profile.name))
    return [name for *_, name in sorted(scored)[:limit]]


def _ambiguous(text: str, profiles: list[DeviceProfile]) -> UnknownDeviceError:
    names = [f"{profile.name} ({format_bytes(profile.nominal_bytes or 0)})" for profile in profiles]
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return UnknownDeviceError(
        f"{text!r} could be {shown}", remedy="add the memory size, such as '80gb', or write the full name"
    )
