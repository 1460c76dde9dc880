"""The command that does what the app is set to do: only the knobs a person turned appear in it."""

import shlex
from typing import Any

from vramplan.planner.device import Device
from vramplan.tui.choice import Choice, SavedPlan
from vramplan.tui.knobs import KNOBS, Knob


def plan_command(choice: Choice, path: str | None = None) -> str:
    """The ``vramplan plan`` line of a choice with a model.

    Raises:
        ValueError: no model is chosen.
    """
    if choice.model is None:
        raise ValueError("a command needs a model")
    words = ["vramplan", "plan", choice.model.provenance.location, *_device_words(choice.device)]
    for knob in KNOBS:
        words += _knob_words(knob, getattr(choice.knobs, knob.name))
    if path is not None:
        words += ["-o", path]
    return shlex.join(words)


def run_command(saved: SavedPlan) -> str:
    """The ``vramplan run`` line of a saved plan."""
    return shlex.join(["vramplan", "run", saved.path])


def _device_words(device: Device | None) -> list[str]:
    if device is None:
        return []
    if device.source == "memory":
        return ["--memory", str(device.total_bytes)]
    if device.kind == "cpu":
        return ["--device", "cpu"]
    if device.source == "reading":
        return ["--device", "auto" if device.index in (None, 0) else str(device.index)]
    return ["--device", device.name]


def _knob_words(knob: Knob, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [knob.flag if value else knob.flag.replace("--", "--no-", 1)]
    return [knob.flag, str(value)]
