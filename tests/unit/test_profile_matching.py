"""From a text to a product: driver names, the short names people type, and everything that must not be guessed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.planner.adapters.profiles import load_profiles, match_profile, search_profiles
from vramplan.planner.errors import UnknownDeviceError
from vramplan.planner.units import MIB


@pytest.mark.parametrize(
    ("text", "name"),
    [
        # As NVML prints them.
        ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4090"),
        ("NVIDIA GeForce RTX 4090 D", "NVIDIA GeForce RTX 4090 D"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA GeForce RTX 4090 Laptop GPU"),
        ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 SXM4 80 GB"),
        ("NVIDIA A100-SXM4-40GB", "NVIDIA A100 SXM4 40 GB"),
        ("NVIDIA A100-PCIE-40GB", "NVIDIA A100 PCIe 40 GB"),
        ("NVIDIA A100 80GB PCIe", "NVIDIA A100 PCIe 80 GB"),
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 SXM5 80 GB"),
        ("NVIDIA H100 PCIe", "NVIDIA H100 PCIe 80 GB"),
        ("NVIDIA H100 NVL", "NVIDIA H100 NVL 94 GB"),
        ("NVIDIA H200", "NVIDIA H200 SXM 141 GB"),
        ("NVIDIA GH200 480GB", "NVIDIA GH200 96 GB"),
        ("NVIDIA B200", "NVIDIA B200"),
        ("NVIDIA GB10", "NVIDIA GB10 (DGX Spark)"),
        ("Tesla T4", "NVIDIA Tesla T4"),
        ("Tesla V100-SXM2-32GB", "NVIDIA Tesla V100 SXM2 32 GB"),
        ("Tesla P100-PCIE-16GB", "NVIDIA Tesla P100 PCIe 16 GB"),
        ("NVIDIA A10", "NVIDIA A10 PCIe"),
        ("NVIDIA A10G", "NVIDIA A10G"),
        ("NVIDIA L4", "NVIDIA L4"),
        ("NVIDIA L40S", "NVIDIA L40S"),
        ("NVIDIA RTX A2000", "NVIDIA RTX A2000"),
        ("NVIDIA RTX A2000 12GB", "NVIDIA RTX A2000 12 GB"),
        ("NVIDIA RTX A6000", "NVIDIA RTX A6000"),
        ("Quadro RTX 6000", "NVIDIA Quadro RTX 6000"),
        ("NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX 6000 Ada Generation"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "NVIDIA RTX PRO 6000 Blackwell Server"),
        # As people type them.
        ("4090", "NVIDIA GeForce RTX 4090"),
        ("rtx 4090", "NVIDIA GeForce RTX 4090"),
        ("rtx4090", "NVIDIA GeForce RTX 4090"),
        ("RTX-4090", "NVIDIA GeForce RTX 4090"),
        ("3060 12gb", "NVIDIA GeForce RTX 3060 12 GB"),
        ("4060 ti 16gb", "NVIDIA GeForce RTX 4060 Ti 16 GB"),
        ("4060ti 16 GB", "NVIDIA GeForce RTX 4060 Ti 16 GB"),
        ("4070tisuper", "NVIDIA GeForce RTX 4070 Ti SUPER"),
        ("3080 10gb", "NVIDIA GeForce RTX 3080"),
        ("5090 laptop", "NVIDIA GeForce RTX 5090 Laptop GPU"),
        ("2080ti", "NVIDIA GeForce RTX 2080 Ti"),
        ("t4", "NVIDIA Tesla T4"),
        ("6000 ada", "NVIDIA RTX 6000 Ada Generation"),
        ("a6000", "NVIDIA RTX A6000"),
        ("h100 sxm", "NVIDIA H100 SXM5 80 GB"),
        ("mi300x", "AMD Instinct MI300X"),
        ("7900xtx", "AMD Radeon RX 7900 XTX"),
        ("m2 max", "Apple M2 Max (96 GB)"),
        ("m1", "Apple M1 (16 GB)"),
        ("gaudi3", "Intel Gaudi3"),
        ("b580", "Intel Arc B580"),
        ("v5e", "Google TPU v5e"),
    ],
)
def test_a_name_means_one_product(text: str, name: str) -> None:
    assert match_profile(text)[0].name == name


@pytest.mark.parametrize(
    ("text", "chosen", "other"),
    [
        ("h100", "NVIDIA H100 PCIe 80 GB", "NVIDIA H100 SXM5 80 GB"),
        ("a100-80gb", "NVIDIA A100 SXM4 80 GB", "NVIDIA A100 PCIe 80 GB"),
        ("v100 32gb", "NVIDIA Tesla V100 SXM2 32 GB", "NVIDIA Tesla V100 PCIe 32 GB"),
        ("rtx pro 6000", "NVIDIA RTX PRO 6000 Blackwell Server", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"),
    ],
)
def test_of_one_product_in_several_forms_the_one_with_least_memory_is_taken_and_said(
    text: str, chosen: str, other: str
) -> None:
    profile, sentence = match_profile(text)
    assert profile.name == chosen
    assert other in sentence


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("a100", ["NVIDIA A100 PCIe 40 GB", "NVIDIA A100 SXM4 80 GB"]),
        ("v100", ["NVIDIA Tesla V100 SXM2 16 GB", "NVIDIA Tesla V100 PCIe 32 GB"]),
        ("3060", ["NVIDIA GeForce RTX 3060 8 GB", "NVIDIA GeForce RTX 3060 12 GB"]),
        ("rtx 3080", ["NVIDIA GeForce RTX 3080 (10.00 GiB)", "NVIDIA GeForce RTX 3080 12 GB"]),
        ("4060 ti", ["NVIDIA GeForce RTX 4060 Ti 8 GB", "NVIDIA GeForce RTX 4060 Ti 16 GB"]),
        ("6000", ["NVIDIA Quadro RTX 6000", "NVIDIA RTX 6000 Ada Generation"]),
        ("ti 16gb", ["NVIDIA GeForce RTX 4060 Ti 16 GB", "NVIDIA GeForce RTX 5070 Ti"]),
        ("titan", ["NVIDIA TITAN V", "NVIDIA TITAN RTX"]),
    ],
)
def test_an_ambiguous_name_is_refused_with_the_choices(text: str, choices: list[str]) -> None:
    with pytest.raises(UnknownDeviceError) as refusal:
        match_profile(text)
    assert all(choice in refusal.value.message for choice in choices)
    assert refusal.value.remedy


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("5090 48gb", "NVIDIA GeForce RTX 5090"),
        ("rtx 4095", "NVIDIA GeForce RTX 4090"),
        ("m2 max 32gb", "Apple M2 Max (96 GB)"),
        ("h1000", "NVIDIA H100"),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(UnknownDeviceError) as refusal:
        match_profile(text)
    assert nearest in (refusal.value.remedy or "")


@pytest.mark.parametrize("text", ["", "  ", "nvidia", "gpu", "GeForce", "!!"])
def test_a_text_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(UnknownDeviceError, match="no device profile"):
        match_profile(text)


@pytest.mark.parametrize(
    ("name", "total_mib", "product"),
    [
        ("NVIDIA GeForce RTX 3080", 10009, "NVIDIA GeForce RTX 3080"),
        ("NVIDIA GeForce RTX 3080", 12053, "NVIDIA GeForce RTX 3080 12 GB"),
        ("NVIDIA GeForce RTX 3060", 12042, "NVIDIA GeForce RTX 3060 12 GB"),
        ("NVIDIA GeForce RTX 3060", 8100, "NVIDIA GeForce RTX 3060 8 GB"),
        ("NVIDIA GeForce RTX 4060 Ti", 15944, "NVIDIA GeForce RTX 4060 Ti 16 GB"),
        ("NVIDIA GeForce GTX 1060 6GB", 6069, "NVIDIA GeForce GTX 1060 6 GB"),
    ],
)
def test_a_reading_s_total_tells_products_of_one_name_apart(name: str, total_mib: int, product: str) -> None:
    assert match_profile(name, total_bytes=total_mib * MIB)[0].name == product


def test_every_product_is_found_by_its_own_name() -> None:
    for profile in load_profiles():
        assert match_profile(profile.name)[0] == profile
        assert match_profile(profile.name.upper(), total_bytes=profile.total_bytes)[0] == profile


def test_a_search_takes_the_beginnings_of_words_and_brands() -> None:
    assert len(search_profiles("")) == 197
    assert {profile.vendor for profile in search_profiles("apple m")} == {"Apple"}
    assert [profile.name for profile in search_profiles("mi35")] == ["AMD Instinct MI350X", "AMD Instinct MI355X"]
    assert search_profiles("no such card") == ()


@given(st.text(max_size=40))
def test_any_text_gives_a_product_or_our_error_without_escapes(text: str) -> None:
    said = ""
    try:
        assert match_profile(text)[0] in load_profiles()
    except UnknownDeviceError as refusal:
        said = str(refusal)
    assert "\x1b" not in said
