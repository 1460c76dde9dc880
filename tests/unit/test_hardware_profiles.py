"""The profile files: every file and row read, known products against what others published, nothing unsourced."""

import json
import re
import tomllib
from datetime import date
from importlib.resources import files
from typing import Any

import pytest

from vramplan.hardware_profiles.index import index
from vramplan.hardware_profiles.loader import BadProfileError, ProfileRow, load_rows, load_sources, read_rows
from vramplan.planner.adapters.profiles import load_profiles, match_profile
from vramplan.planner.units import GIB, MIB

ROWS = load_rows()
GENERATION: dict[str, Any] = {
    "vendor": "NVIDIA",
    "kind": "cuda",
    "architecture": "Ada",
    "form_factor": "desktop",
    "sources": {"specification": "techpowerup"},
}
DEVICE: dict[str, Any] = {"name": "NVIDIA GeForce RTX 4090", "release_year": 2022, "nominal_gib": 24}


def _row(name: str) -> ProfileRow:
    return next(row for row in ROWS if row.name == name)


def _file(**device: Any) -> dict[str, Any]:
    return {"generation": [{**GENERATION, "device": [{**DEVICE, **device}]}]}


def test_every_product_is_there_once() -> None:
    names = [row.name for row in ROWS]
    assert len(names) == 197
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_row_agrees_with_itself(row: ProfileRow) -> None:
    assert row.total_mib is not None
    assert row.total_basis
    assert row.total_mib <= row.nominal_gib * 1024
    if row.kind != "mps" and "Ryzen" not in row.name:
        assert row.total_mib >= 0.89 * row.nominal_gib * 1024
    if row.nvidia_smi_total_mib is not None:
        assert row.total_mib < row.nvidia_smi_total_mib <= row.nominal_gib * 1024
    if row.observed_total_mib:
        assert row.total_mib == min(row.observed_total_mib)
    if row.bf16_tflops is not None:
        assert row.bf16 is True
        assert row.fp16_tflops is None or row.fp16_tflops >= row.bf16_tflops
        assert row.fp8_tflops is None or row.fp8_tflops >= row.bf16_tflops
        assert row.fp4_tflops is None or row.fp4_tflops > row.bf16_tflops
        assert row.tflops_basis
    if row.fp8_tflops is not None:
        assert row.fp8 is True
    assert (row.compute_capability is not None) == (row.vendor == "NVIDIA")
    assert (row.gfx is not None) == (row.vendor == "AMD")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_names_its_sources(row: ProfileRow) -> None:
    assert {"specification", "total"} <= set(row.sources)
    assert (row.tflops_basis is None) or "tflops" in row.sources
    assert (row.bnb_4bit in (None, False)) or "bnb" in row.sources
    assert not row.mig_profiles or "mig" in row.sources
    assert row.price is None or re.match(r"20\d\d", row.price.on)


@pytest.mark.parametrize("row", [row for row in ROWS if row.mig_profiles], ids=lambda row: row.name)
def test_the_largest_mig_profile_is_the_whole_card(row: ProfileRow) -> None:
    """NVIDIA names a MIG profile after the memory it gets, so the largest is the card's own memory."""
    largest = max(int(re.fullmatch(r"\dg\.(\d+)gb", profile)[1]) for profile in row.mig_profiles)  # type: ignore[index]
    total_gib = (row.total_mib or 0) / 1024
    assert abs(largest - total_gib) < 0.02 * total_gib


def test_every_source_is_used_and_its_date_is_a_day_that_has_been() -> None:
    used = {source for row in ROWS for source in row.sources.values()}
    assert used == set(load_sources())
    for source in load_sources().values():
        assert source.checked is None or date(2025, 1, 1) < source.checked <= date.today()


def test_no_file_holds_a_zero_or_an_empty_text() -> None:
    def leaves(value: Any) -> list[Any]:
        if isinstance(value, dict):
            return [leaf for item in value.values() for leaf in leaves(item)]
        return [leaf for item in value for leaf in leaves(item)] if isinstance(value, list) else [value]

    folder = files("vramplan.hardware_profiles")
    read = [file for file in folder.iterdir() if file.name.endswith(".toml")]
    assert len(read) == 8
    for file in read:
        for leaf in leaves(tomllib.loads(file.read_text(encoding="utf-8"))):
            assert leaf is True or leaf is False or leaf


@pytest.mark.parametrize(
    ("name", "fact", "value"),
    [
        # NVIDIA's data sheets and developer.nvidia.com/cuda-gpus.
        ("NVIDIA A10 PCIe", "nominal_gib", 24),
        ("NVIDIA A10 PCIe", "memory_bandwidth_gb_per_second", 600.2),
        ("NVIDIA A10 PCIe", "bf16_tflops", 125),
        ("NVIDIA GeForce RTX 4090", "compute_capability", "8.9"),
        ("NVIDIA GeForce RTX 4090", "memory_bandwidth_gb_per_second", 1008),
        ("NVIDIA GeForce RTX 4090", "tdp_watts", 450),
        ("NVIDIA GeForce RTX 4090", "bf16_tflops", 165.2),
        ("NVIDIA GeForce RTX 3090", "bf16_tflops", 71.2),
        ("NVIDIA GeForce RTX 5090", "compute_capability", "12.0"),
        ("NVIDIA H100 SXM5 80 GB", "compute_capability", "9.0"),
        ("NVIDIA H100 SXM5 80 GB", "nominal_gib", 80),
        ("NVIDIA H100 SXM5 80 GB", "bf16_tflops", 989.4),
        ("NVIDIA H100 PCIe 80 GB", "bf16_tflops", 756.5),
        ("NVIDIA A100 SXM4 80 GB", "bf16_tflops", 312),
        ("NVIDIA A100 SXM4 80 GB", "compute_capability", "8.0"),
        ("NVIDIA Tesla T4", "compute_capability", "7.5"),
        ("NVIDIA Tesla T4", "fp16_tflops", 65),
        ("NVIDIA Tesla V100 SXM2 16 GB", "tdp_watts", 300),
        ("NVIDIA Tesla V100 PCIe 16 GB", "tdp_watts", 250),
        ("NVIDIA L40S", "tdp_watts", 350),
        ("NVIDIA B200", "compute_capability", "10.0"),
        # AMD's data sheet.
        ("AMD Instinct MI300X", "nominal_gib", 192),
        ("AMD Instinct MI300X", "bf16_tflops", 1307.4),
        ("AMD Instinct MI300X", "gfx", "gfx942"),
    ],
)
def test_a_known_fact(name: str, fact: str, value: Any) -> None:
    assert getattr(_row(name), fact) == value


@pytest.mark.parametrize(
    ("name", "bf16", "flash_attention_2", "flash_attention_3", "bnb_4bit"),
    [
        ("NVIDIA GeForce GTX 1080 Ti", False, False, False, True),
        ("NVIDIA Tesla T4", False, False, False, True),
        ("NVIDIA GeForce RTX 3090", True, True, False, True),
        ("NVIDIA H100 SXM5 80 GB", True, True, True, True),
        ("Google TPU v5e", True, False, False, False),
    ],
)
def test_what_each_generation_supports(
    name: str, bf16: bool, flash_attention_2: bool, flash_attention_3: bool, bnb_4bit: bool
) -> None:
    """FlashAttention's README (2: Ampere and newer, 3: Hopper) and bitsandbytes' (4-bit: compute capability 6.0)."""
    row = _row(name)
    found = (row.bf16, row.flash_attention_2, row.flash_attention_3, row.bnb_4bit)
    assert found == (bf16, flash_attention_2, flash_attention_3, bnb_4bit)


def test_totals_are_what_cuda_reports_and_not_the_figure_on_the_box() -> None:
    """PyTorch's out-of-memory messages say 23.64 GiB on an RTX 4090, 14.56 on a T4, 79.14 on an A100 80 GB."""
    for name, gib in (("4090", 23.64), ("t4", 14.56), ("NVIDIA A100-SXM4-80GB", 79.14)):
        total = match_profile(name)[0].total_bytes
        assert total is not None
        assert round(total / GIB, 2) == gib


def test_a_profile_has_the_planner_s_units() -> None:
    profile = match_profile("NVIDIA L40S")[0]
    assert profile.total_bytes == 45455 * MIB
    assert profile.nominal_bytes == 48 * GIB
    assert profile.memory_bandwidth_bytes_per_second == 864_000_000_000
    assert profile.bf16_flops_per_second == 362_000_000_000_000
    assert profile.compute_capability == (8, 9)
    assert (profile.usd_per_hour, profile.usd_per_hour_on) == (1.861, "2026-09-06")
    assert any(source.startswith("price: AWS") for source in profile.sources)


def test_profiles_are_read_once() -> None:
    assert load_profiles() is load_profiles()


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        ({"tdp_wats": 450}, "tdp_wats"),
        ({"tdp_watts": 0}, "tdp_watts"),
        ({"tdp_watts": "450"}, "tdp_watts"),
        ({"memory_bandwidth_gb_per_second": 0.0}, "memory_bandwidth_gb_per_second"),
        ({"sources": {"tdp": "hearsay"}}, "hearsay"),
        ({"sources": {"colour": "techpowerup"}}, "colour"),
        ({"price": {"usd_per_hour": 1.0, "on": "last week", "source": "x"}}, "price.on"),
    ],
)
def test_a_faulty_row_is_refused_by_file_name_and_key(device: dict[str, Any], fault: str) -> None:
    with pytest.raises(BadProfileError, match=f"(?s)some.toml: NVIDIA GeForce RTX 4090: .*{re.escape(fault)}"):
        read_rows("some.toml", _file(**device))


def test_a_device_overrides_its_generation_fact_by_fact() -> None:
    (row,) = read_rows("some.toml", _file(architecture="Ada Lovelace", sources={"tdp": "vendor"}))
    assert row.architecture == "Ada Lovelace"
    assert row.sources == {"specification": "techpowerup", "tdp": "vendor"}


def test_the_index_holds_what_the_files_hold() -> None:
    shipped = json.loads(files("vramplan.hardware_profiles").joinpath("index.json").read_bytes())
    assert shipped == index(), "write it again: python -m vramplan.hardware_profiles.index"
