"""The devices a plan would run on: its own card first, then its like, then what has the most memory free."""

from pathlib import Path

import pytest

from tests.executor.factories import make_plan
from tests.fakes import make_cpu, make_device
from vramplan.executor import here
from vramplan.planner.device import Device
from vramplan.planner.units import GIB

PLANNED = make_device(uuid="GPU-a", name="NVIDIA GeForce RTX 4090", reserve_bytes=GIB)
CARDS = (
    make_device(uuid="GPU-c", name="NVIDIA GeForce RTX 3090", profile="RTX 3090", index=0),
    make_device(uuid="GPU-b", index=1),
    make_device(uuid="GPU-a", index=2),
)


def found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: Device | None, gpus: int = 1) -> list[str | None]:
    monkeypatch.setattr(here, "read_devices", lambda: CARDS)
    monkeypatch.setattr(here, "read_cpu", make_cpu)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    plan = make_plan(tmp_path)
    sharded = {"gpus": gpus, "sharding": "ddp"} if gpus > 1 else {}
    plan = plan.model_copy(update={"device": device, "setup": plan.setup.model_copy(update=sharded)})
    return [each.uuid for each in here.devices_here(plan)]


def test_the_very_card_comes_first_then_its_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path, monkeypatch, PLANNED) == ["GPU-a"]
    assert found(tmp_path, monkeypatch, PLANNED, gpus=3) == ["GPU-a", "GPU-b", "GPU-c"]


def test_a_plan_without_a_device_takes_the_first_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path, monkeypatch, None) == ["GPU-c"]


def test_what_a_plan_keeps_back_is_kept_back_here_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found(tmp_path, monkeypatch, PLANNED)
    plan = make_plan(tmp_path).model_copy(update={"device": PLANNED})
    card = here.device_here(plan)
    assert card is not None
    assert (card.uuid, card.reserve_bytes) == ("GPU-a", GIB)


def test_a_plan_for_a_cpu_runs_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert found(tmp_path, monkeypatch, make_cpu()) == [None]
