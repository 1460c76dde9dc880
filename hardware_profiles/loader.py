"""Reads the TOML files beside it: one row per product, every fact with its source, unknown facts left out.

Nothing is read before the first call, and then once. The unit of a figure is in its key; what goes into the planner's
own units is done by ``vramplan.planner.adapters.profiles``.
"""

import json
import zlib
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

SOURCES_FILE = "sources.toml"
INDEX_FILE = "index.json"

PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Text = Annotated[str, Field(min_length=1)]
Fact = Literal[
    "specification",
    "total",
    "nvidia_smi_total",
    "bandwidth",
    "tflops",
    "tdp",
    "bf16",
    "bnb",
    "flash_attention",
    "wheels",
    "mig",
]
"""What a source vouches for; ``specification`` is every fact of the row that has no entry of its own."""


class _Row(BaseModel):
    """Frozen and closed: a misspelt key is refused, a zero too (unknown is left out), a wrong type as well."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


RowType = TypeVar("RowType", bound=_Row)


class Source(_Row):
    title: Text
    url: Text | None = None
    checked: date | None = None
    """The day it was last read against the rows."""


class Price(_Row):
    """Renting one device for an hour, on demand."""

    usd_per_hour: PositiveFloat
    on: Annotated[str, Field(pattern=r"^\d{4}(-\d{2}-\d{2})?$")]
    """ISO date, or only the year where no more is known."""
    source: Text


class ProfileRow(_Row):
    """One product. Rates are dense peaks, in 10^12 operations a second; memory is per device as the runtime sees it."""

    name: Text
    aliases: list[Text] = []
    """What a driver calls it, and other names, where they are not plainly the name."""
    vendor: Text
    kind: Literal["cuda", "rocm", "mps", "xpu", "hpu", "tpu"]
    architecture: Text
    form_factor: Literal["desktop", "laptop", "workstation", "datacenter", "unified-memory"]
    release_year: PositiveInt
    compute_capability: Annotated[str, Field(pattern=r"^\d+\.\d$")] | None = None
    gfx: Text | None = None
    """AMD's compiler target."""
    nominal_gib: PositiveInt
    """The figure on the box; boxes write GB and mean GiB."""
    total_mib: PositiveInt | None = None
    """What CUDA (or the vendor's runtime) reports as total; ``total_basis`` says how it is known."""
    total_basis: Text | None = None
    observed_total_mib: list[PositiveInt] = []
    nvidia_smi_total_mib: PositiveInt | None = None
    memory_options_gib: list[PositiveInt] = []
    """Smallest and largest memory the chip is sold with."""
    memory_bandwidth_gb_per_second: PositiveFloat | None = None
    """10^9 bytes a second."""
    fp32_tflops: PositiveFloat | None = None
    tf32_tflops: PositiveFloat | None = None
    bf16_tflops: PositiveFloat | None = None
    fp16_tflops: PositiveFloat | None = None
    fp8_tflops: PositiveFloat | None = None
    fp4_tflops: PositiveFloat | None = None
    tflops_basis: Text | None = None
    bf16: bool | None = None
    """In hardware, not emulated."""
    fp8: bool | None = None
    bnb_4bit: bool | None = None
    bnb_8bit: bool | None = None
    """LLM.int8()."""
    flash_attention_2: bool | None = None
    flash_attention_3: bool | None = None
    pytorch_wheels: Text | None = None
    nvlink_gb_per_second: PositiveFloat | None = None
    """Both directions together, all links; so is Infinity Fabric's."""
    infinity_fabric_gb_per_second: PositiveFloat | None = None
    pcie: Text | None = None
    tdp_watts: PositiveInt | None = None
    mig_profiles: list[Text] = []
    price: Price | None = None
    notes: Text | None = None
    sources: dict[Fact, Text]


class BadProfileError(Exception):
    """A file of this folder has a fault; the message names file, row and key."""


@cache
def load_sources() -> dict[str, Source]:
    """Every source by the name the rows give it.

    Raises:
        BadProfileError: an unknown key, a wrong type.
    """
    tables = {name: _with_date(table) for name, table in _tables(SOURCES_FILE).items()}
    return {name: _validated(Source, SOURCES_FILE, name, table) for name, table in tables.items()}


@cache
def load_rows() -> tuple[ProfileRow, ...]:
    """Every product, file by file in name order, in the order of the files.

    Raises:
        BadProfileError: an unknown key, a zero, a wrong type, a source nobody described.
    """
    names = sorted(file.name for file in files(__package__).iterdir() if file.name.endswith(".toml"))
    return tuple(row for name in names if name != SOURCES_FILE for row in read_rows(name, _tables(name)))


def read_rows(file_name: str, tables: dict[str, Any]) -> list[ProfileRow]:
    """The rows of one parsed file: each device over what its generation shares, sources fact by fact."""
    rows = []
    for generation in tables["generation"]:
        shared = {key: value for key, value in generation.items() if key != "device"}
        for device in generation["device"]:
            sources = {**shared.get("sources", {}), **device.get("sources", {})}
            row = _validated(ProfileRow, file_name, device.get("name", "?"), {**shared, **device, "sources": sources})
            if unknown := set(row.sources.values()) - set(load_sources()):
                raise BadProfileError(f"{file_name}: {row.name}: no such source: {', '.join(sorted(unknown))}")
            rows.append(row)
    return rows


def _tables(file_name: str) -> dict[str, Any]:
    """A file's tables: as the index has them where it was made from this very file, else parsed."""
    content = files(__package__).joinpath(file_name).read_bytes()
    crc, tables = _index().get(file_name, (None, {}))
    return tables if crc == zlib.crc32(content) else parsed(content)


def _with_date(table: dict[str, Any]) -> dict[str, Any]:
    """The index has dates as text."""
    checked = table.get("checked")
    return table | {"checked": date.fromisoformat(checked)} if isinstance(checked, str) else table


def parsed(content: bytes) -> dict[str, Any]:
    """TOML as tables."""
    import tomllib  # the index spares most commands this, and the parsing

    return tomllib.loads(content.decode())


@cache
def _index() -> dict[str, Any]:
    """File name -> [crc32 of its bytes, its tables]; see ``hardware_profiles.index``."""
    file = files(__package__).joinpath(INDEX_FILE)
    found: dict[str, Any] = json.loads(file.read_bytes()) if file.is_file() else {}
    return found


def _validated(kind: type[RowType], file_name: str, name: str, table: dict[str, Any]) -> RowType:
    try:
        return kind.model_validate(table)
    except ValidationError as error:
        fault = error.errors()[0]
        key = ".".join(str(part) for part in fault["loc"])
        raise BadProfileError(f"{file_name}: {name}: {key}: {fault['msg']}") from error
