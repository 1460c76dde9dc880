"""Which products are enough for a setup, and which of them is cheapest to rent."""

import json
from typing import Any

import pytest

from vramplan.planner.adapters.devices import device_of
from vramplan.planner.adapters.profiles import load_profiles, match_profile
from vramplan.planner.cli.main import main
from vramplan.planner.devices_for import kernels


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = main(["devices", "--for", *arguments, "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert code == (0 if any(each["devices"] for each in printed["methods"]) else 1)
    return {each["devices"][0]["device"] if each["devices"] else None: each for each in printed["methods"]}


def test_every_product_has_the_verdict_that_an_estimate_gives_it(capsys: pytest.CaptureFixture[str]) -> None:
    (answer,) = found(capsys, "meta-llama/Llama-3.2-1B", "--method", "full").values()
    verdicts = {each["device"]: each for each in answer["devices"]}
    for asked in ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 4060", "NVIDIA H100 PCIe"):
        main(["estimate", "meta-llama/Llama-3.2-1B", "--method", "full", "--device", asked, "--json"])
        estimate = json.loads(capsys.readouterr().out)
        name = estimate["device"]["name"]
        if estimate["verdict"] == "no":
            assert name not in verdicts
        else:
            assert verdicts[name]["high_process_bytes"] == estimate["high_process_bytes"]
            assert verdicts[name]["verdict"] == estimate["verdict"]


def test_the_smallest_comes_first_and_the_cheapest_is_known_by_its_rent_for_the_same_tokens(
    capsys: pytest.CaptureFixture[str],
) -> None:
    (answer,) = found(capsys, "meta-llama/Llama-3.1-70B", "--method", "qlora").values()
    totals = [each["total_bytes"] for each in answer["devices"]]
    assert totals == sorted(totals)
    # 4 bits of 70.6 billion parameters are 32.9 GiB before anything else: no product of 40 GB and less is enough.
    assert totals[0] > 40 * 2**30
    ranked = [each for each in answer["devices"] if each["cheapest_place"] is not None]
    costs = [each["usd_per_million_tokens"] for each in sorted(ranked, key=lambda each: each["cheapest_place"])]
    assert costs == sorted(costs)


def test_products_with_the_same_kernels_stand_together() -> None:
    profiles = [match_profile(name)[0] for name in ("RTX 4090", "RTX 3090", "H100 PCIe", "T4")]
    assert all(profile in load_profiles() for profile in profiles)
    first, second, hopper, turing = (kernels(device_of(profile)) for profile in profiles)
    assert first == second
    assert len({first, hopper, turing}) == 3


def test_options_of_a_setup_need_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "--method", "lora"]) == 2
    assert "add --for MODEL" in capsys.readouterr().err
