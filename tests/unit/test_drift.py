"""What differs between a plan and the world, and whether that stops a run."""

from typing import Any

import pytest

from tests.fakes import VERSIONS, make_cpu, make_device, make_plan
from vramplan.planner.device import Device, Holder
from vramplan.planner.drift import check_drift
from vramplan.planner.plan import Drift, PlannedData
from vramplan.planner.units import GIB

PLAN = make_plan()  # RTX 4090, 12 GiB of process, up to 13


def drifts(plan: Any = PLAN, device: Device | None = None, **found: Any) -> dict[str, Drift]:
    arguments = {"device": device or make_device(), "packages": VERSIONS} | found
    return {drift.what: drift for drift in check_drift(plan, **arguments)}


def test_the_same_world_has_no_drift() -> None:
    data = PlannedData(path="train.jsonl", sha256="d" * 64, size_bytes=4096)
    config = PLAN.model.config_sha256
    assert drifts(data=data, model_config_sha256=config, newest_revision=PLAN.model.revision) == {}


def test_another_product_blocks_and_another_card_of_it_warns() -> None:
    other = drifts(device=make_device(name="NVIDIA GeForce RTX 3090", profile="RTX 3090"))
    assert (other["device"].severity, other["device"].found) == ("blocks", "NVIDIA GeForce RTX 3090")
    twin = drifts(device=make_device(uuid="GPU-another"))
    assert {name: drift.severity for name, drift in twin.items()} == {"uuid": "warns"}


def test_a_plan_from_a_profile_binds_to_the_product_and_to_no_card() -> None:
    planned = make_device(source="profile", name="RTX 4090", uuid=None, index=None, free_bytes=None, read_at=None)
    assert drifts(make_plan(device=planned)) == {}


def test_a_plan_for_a_bare_size_runs_on_any_card_of_the_kind() -> None:
    planned = Device(source="memory", kind="cuda", name="16.00 GiB", total_bytes=16 * GIB, free_bytes=None)
    assert drifts(make_plan(device=planned)) == {}
    assert drifts(make_plan(device=planned), make_cpu())["device"].severity == "blocks"


def test_no_device_here_blocks_a_plan_that_names_one() -> None:
    found = {drift.what: drift.severity for drift in check_drift(PLAN, device=None, packages={})}
    assert found == {"device": "blocks"}


def test_another_cpu_only_warns() -> None:
    assert drifts(make_plan(device=make_cpu()), make_cpu(name="Other CPU", free_bytes=14 * GIB))["device"].severity == (
        "warns"
    )


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [
        (24, 23, {}),
        (24, 13, {}),
        (20, 18, {"total-memory": "warns"}),
        (12.5, 12.5, {"memory": "blocks"}),
        (24, 12.5, {"memory": "blocks"}),
        (24, 11, {"memory": "blocks"}),
    ],
)
def test_less_memory_blocks_only_when_the_upper_bound_no_longer_fits(total: float, free: float, expected: Any) -> None:
    device = make_device(total_bytes=int(total * GIB), free_bytes=int(free * GIB))
    assert {name: drift.severity for name, drift in drifts(device=device).items()} == expected


def test_a_tight_plan_runs_once_it_was_verified_but_never_below_the_estimate() -> None:
    tight, short = make_device(free_bytes=int(12.5 * GIB)), make_device(free_bytes=11 * GIB)
    assert drifts(device=tight, verified=True)["memory"].severity == "warns"
    assert drifts(device=short, verified=True)["memory"].severity == "blocks"


def test_a_plan_that_was_tight_by_giving_back_the_cache_needs_what_was_free_then() -> None:
    then = make_device(free_bytes=int(11.5 * GIB))  # below its 12 GiB of process
    plan = make_plan(device=then).model_copy(update={"verdict": "tight"})
    assert drifts(plan, then, verified=True)["memory"].severity == "warns"
    assert drifts(plan, then)["memory"].severity == "blocks"
    assert drifts(plan, make_device(free_bytes=11 * GIB), verified=True)["memory"].severity == "blocks"


def test_the_reserve_is_kept_back() -> None:
    assert drifts(device=make_device(reserve_bytes=12 * GIB))["memory"].severity == "blocks"


def test_who_holds_the_memory_is_named() -> None:
    device = make_device(free_bytes=GIB, holders=(Holder(pid=77, name="blender"),))
    assert drifts(device=device)["memory"].remedy == "stop what holds it: blender (77)"


def test_other_data_another_config_and_a_gone_revision_block() -> None:
    found = drifts(
        data=PlannedData(path="train.jsonl", sha256="e" * 64, size_bytes=4097),
        model_config_sha256="0" * 64,
        revision_exists=False,
    )
    assert {name: drift.severity for name, drift in found.items()} == {
        "data": "blocks",
        "model-config": "blocks",
        "revision": "blocks",
    }


def test_a_newer_commit_a_driver_and_package_versions_warn() -> None:
    found = drifts(
        device=make_device(driver_version="600.01"),
        newest_revision="f" * 40,
        packages=VERSIONS | {"torch": "2.14.0+cu130"},
    )
    assert {name: drift.severity for name, drift in found.items()} == {
        "driver": "warns",
        "newer-revision": "warns",
        "torch": "warns",
    }


def test_another_build_of_the_same_torch_is_the_same_torch() -> None:
    assert drifts(packages=VERSIONS | {"torch": "2.13.0+cu130"}) == {}


def test_a_price_made_anew_blocks_beyond_the_old_upper_bound() -> None:
    assert drifts(repriced_process_bytes=13 * GIB) == {}
    assert drifts(repriced_process_bytes=13 * GIB + 1)["price"].severity == "blocks"


def test_what_blocks_comes_first_and_every_drift_has_a_remedy() -> None:
    found = check_drift(
        PLAN,
        device=make_device(free_bytes=GIB, driver_version="1"),
        packages=VERSIONS | {"peft": "0.22.0"},
        model_config_sha256="0" * 64,
    )
    assert [drift.severity for drift in found] == ["blocks", "blocks", "warns", "warns"]
    assert all(drift.remedy for drift in found)
