"""What screens and widgets say to the app. Each carries frozen values.

The messages themselves cannot be frozen: Textual writes its routing marks onto them.
"""

from dataclasses import dataclass

from textual.message import Message

from vramplan.planner.device import Device
from vramplan.planner.model_spec import ModelSpec
from vramplan.tui.choice import Knobs, SavedPlan


@dataclass
class ModelChosen(Message):
    """A person settled on a model, and perhaps on a method with it."""

    model: ModelSpec
    method: str | None = None
    knobs: Knobs | None = None
    """The options as they stood when it was looked at before."""


@dataclass
class DeviceChosen(Message):
    """A person settled on what to plan for; the note says how it was found."""

    device: Device | None
    note: str


@dataclass
class KnobsChanged(Message):
    """An option was set or put back to its default."""

    knobs: Knobs


@dataclass
class PlanSaved(Message):
    """A plan file was written."""

    saved: SavedPlan


@dataclass
class RunWanted(Message):
    """A person confirmed that the saved plan shall run, or go on from its newest checkpoint."""

    saved: SavedPlan
    resume: bool = False


@dataclass
class ChatWanted(Message):
    """A person wants to ask what came of these runs."""

    folders: tuple[str, ...]
