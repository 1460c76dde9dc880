"""What the real core says differently for the app than for the command line."""

import pytest

from vramplan.planner.adapters import devices
from vramplan.planner.adapters.nvml import Readings
from vramplan.tui.live_core import LiveCore


def test_where_there_is_no_accelerator_the_app_names_its_key_within_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "inspect_devices", lambda: Readings(devices=()))
    device, note = LiveCore().default_device()
    assert (device, note) == (None, "no accelerator here: figures without a verdict; d picks one")
