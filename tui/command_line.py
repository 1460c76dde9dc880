"""The command that does what the app is set to do: only the knobs a person turned appear in it."""

import shlex
from collections.abc import Iterable
from typing import Any

from vramplan.planner.cli.options import SETUP
from vramplan.planner.device import Device
from vramplan.tui.choice import AROUND, MATTERS, Choice, Knobs, SavedPlan
from vramplan.tui.knobs import KNOBS, Knob
from vramplan.tui.more_knobs import more_knobs


def plan_command(choice: Choice, path: str | None = None) -> str:
    """The ``vramplan plan`` line of a choice with a model.

    Raises:
        ValueError: no model is chosen.
    """
    if choice.model is None:
        raise ValueError("a command needs a model")
    words = ["vramplan", "plan", choice.model.provenance.location, *device_words(choice.device)]
    words += _options(choice.knobs, (*choice.knobs.setup, *AROUND))
    if path is not None:
        words += ["-o", path]
    return shlex.join(words)


def recommend_command(choice: Choice) -> str:
    """The ``vramplan recommend`` line of a choice with a model: every method compared.

    Raises:
        ValueError: no model is chosen.
    """
    if choice.model is None:
        raise ValueError("a command needs a model")
    knobs = choice.knobs
    words = ["vramplan", "recommend", choice.model.provenance.location, *device_words(choice.device)]
    named = {option.name for option in SETUP} - {"method"}
    return shlex.join([*words, *_options(knobs, (*(knobs.setup.keys() & named), *knobs.matters, *AROUND))])


def run_command(saved: SavedPlan) -> str:
    """The ``vramplan run`` line of a saved plan."""
    return shlex.join(["vramplan", "run", saved.path])


def device_words(device: Device | None) -> list[str]:
    """The options that name a device."""
    if device is None:
        return []
    if device.source == "memory":
        return ["--memory", str(device.total_bytes)]
    if device.kind == "cpu":
        return ["--device", "cpu"]
    if device.source == "reading":
        return ["--device", "auto" if device.index in (None, 0) else str(device.index)]
    return ["--device", device.name]


def _options(knobs: Knobs, named: Iterable[str]) -> list[str]:
    table = [knob for knob in (*KNOBS, *more_knobs()) if knob.name in set(named)]
    return [word for knob in table for word in _knob_words(knob, knobs.value(knob.name))]


def _knob_words(knob: Knob, value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, bool):
        if knob.name in MATTERS:  # a switch without a --no- form
            return [knob.flag] if value else []
        return [knob.flag if value else knob.flag.replace("--", "--no-", 1)]
    if isinstance(value, float):
        return [knob.flag, f"{value:g}"]
    return [knob.flag, str(value)]
