"""A verification counts for its plan, on its product, with its library versions, and for nothing else."""

from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_device, make_plan, make_setup
from vramplan.executor.evidence import VERIFICATION, Evidence, write_report
from vramplan.executor.packages import installed_packages
from vramplan.executor.verification import passed_verification

CARD = make_device(kind="cuda", name="NVIDIA A10")


def verified(tmp_path: Path, environment: dict[str, str], status: Any = "done", **changes: Any) -> None:
    plan = make_plan(tmp_path)
    report = Evidence(plan, goal="verify", environment=environment).report(status)
    write_report(report.model_copy(update=changes), tmp_path, VERIFICATION)


def test_it_counts_on_the_same_product_only(tmp_path: Path) -> None:
    plan, packages = make_plan(tmp_path), installed_packages()
    verified(tmp_path, {"gpu": "NVIDIA A10"})
    assert passed_verification(plan, tmp_path, CARD, packages) is not None
    assert passed_verification(plan, tmp_path, make_device(), packages) is None
    assert passed_verification(plan, tmp_path, make_device(kind="cuda", name="NVIDIA T4"), packages) is None
    assert passed_verification(plan, tmp_path, None, packages) is None
    verified(tmp_path, {"device": "cpu"})
    assert passed_verification(plan, tmp_path, make_device(), packages) is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "failed"},
        {"plan_fingerprint": "0" * 64},
        {"packages": {"torch": "1.0"}},
        {"setup": make_setup(micro_batch_size=1)},
    ],
)
def test_it_counts_for_nothing_else(changes: dict[str, Any], tmp_path: Path) -> None:
    verified(tmp_path, {"gpu": "NVIDIA A10"}, **changes)
    packages = installed_packages() | {"torch": "2.13.0"}
    assert passed_verification(make_plan(tmp_path), tmp_path, CARD, packages) is None


def test_without_one_or_with_a_broken_one_there_is_none(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    assert passed_verification(plan, tmp_path, CARD, {}) is None
    (tmp_path / VERIFICATION).write_text("{")
    assert passed_verification(plan, tmp_path, CARD, {}) is None
