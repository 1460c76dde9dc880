"""What the driver tells of a GPU, from a driver that is a few recorded answers: units, gaps, and the context's size."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.executor.factories import make_plan
from vramplan.executor import sensors as module
from vramplan.executor.evidence import Evidence
from vramplan.executor.sensors import Sensors, find_sensors
from vramplan.planner.units import MIB

UUID = "GPU-00000000-1111-2222-3333-444444444444"


class NoSensorError(Exception):
    pass


class FakeNvml:
    """An H100's answers: 41 C, 350.5 W, and an energy count in millijoules that goes on between readings."""

    NVMLError = NoSensorError

    def __init__(self, *, used: tuple[int, ...] = (0,), broken: bool = False) -> None:
        self.used, self.energy, self.asked = list(used), 5_000_000, 0
        self.broken = broken

    def nvmlInit(self) -> None:  # noqa: N802
        if self.broken:
            raise NoSensorError("driver not loaded")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802
        return f"#{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Any:  # noqa: N802
        return uuid

    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any:  # noqa: N802
        return SimpleNamespace(used=self.used.pop(0) if len(self.used) > 1 else self.used[0])

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int:  # noqa: N802
        return 41

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        self.asked += 1
        return 350_500

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        self.energy += 36_000
        return self.energy


class OldCard(FakeNvml):
    """A card from before Volta behind a driver that keeps its power to itself."""

    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int:  # noqa: N802
        raise NoSensorError("not supported")

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any) -> int:  # noqa: N802
        raise NoSensorError("not supported")


def test_temperature_power_and_energy_come_in_their_units() -> None:
    sensors = find_sensors({"CUDA_VISIBLE_DEVICES": UUID}, FakeNvml())
    climate = sensors.climate()
    assert (climate.temperature_celsius, climate.power_watts) == (41, 350.5)
    assert sensors.energy_joules() == 36.0


def test_the_driver_is_asked_once_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    nvml, now = FakeNvml(), [100.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    sensors = Sensors(nvml, "handle")
    for moment in (100.0, 100.4, 100.9, 101.1):
        now[0] = moment
        sensors.climate()
    assert nvml.asked == 2


def test_what_a_card_does_not_tell_is_none() -> None:
    sensors = find_sensors({"CUDA_VISIBLE_DEVICES": "3"}, OldCard())
    assert (sensors.climate().temperature_celsius, sensors.climate().power_watts) == (41, None)
    assert sensors.energy_joules() is None


@pytest.mark.parametrize(("visible", "broken"), [("", False), ("0", True)])
def test_without_a_gpu_or_a_driver_there_are_no_readings(visible: str, broken: bool) -> None:
    sensors = find_sensors({"CUDA_VISIBLE_DEVICES": visible}, FakeNvml(broken=broken))
    assert sensors.used_bytes() is None
    assert sensors.energy_joules() is None
    assert sensors.climate().power_watts is None


def test_the_context_is_what_neither_the_allocator_nor_others_hold(tmp_path: Path) -> None:
    """300 MiB were in use before; then the context came with 410 MiB, its kernels with 90, and 2000 were reserved."""
    evidence = Evidence(make_plan(tmp_path))
    evidence.watch(Sensors(FakeNvml(used=(300 * MIB, 2710 * MIB, 2800 * MIB, 2500 * MIB)), "handle"))
    for _ in range(3):
        evidence.see_outside(2000 * MIB)
    report = evidence.report("done")
    assert report.outside_bytes == 500 * MIB
    assert report.energy_joules == 36.0


def test_a_phases_measurement_lies_beside_its_estimate_unless_the_ladder_was_taken(tmp_path: Path) -> None:
    from vramplan.executor.phases import Peak
    from vramplan.planner.report import RungTaken

    evidence = Evidence(make_plan(tmp_path), peaks={"optimizer_step": Peak(allocated_bytes=1010)})
    (phase,) = evidence.report("done").phases
    assert (phase.allocated_bytes, phase.estimate_bytes, phase.high_bytes) == (1010, 1000, 1000)
    evidence.ladder = (RungTaken(change="gradient checkpointing"),)
    (phase,) = evidence.report("done").phases
    assert (phase.allocated_bytes, phase.estimate_bytes) == (1010, None)
