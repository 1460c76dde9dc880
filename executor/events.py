"""The wire protocol between the worker and whoever watches: one JSON object a line, tagged by ``event``."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from vramplan.planner.memory.budget import PhaseName
from vramplan.planner.values import Value


class Started(Value):
    """The worker is up and has read its plan."""

    event: Literal["started"] = "started"
    time: float
    pid: int
    fingerprint: str
    max_steps: int | None = None


class Progress(Value):
    """Something slow is under way (loading, exporting, tokenising)."""

    event: Literal["progress"] = "progress"
    time: float
    what: str
    fraction: float | None = None


class Step(Value):
    """One optimizer step is done."""

    event: Literal["step"] = "step"
    time: float
    step: int
    max_steps: int
    loss: float | None = None
    grad_norm: float | None = None
    learning_rate: float | None = None
    tokens: int | None = None
    """Input tokens seen since the start of the run."""
    tokens_per_second: float | None = None
    eta_seconds: float | None = None
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    process_bytes: int | None = None
    """Device memory in use on CUDA; resident set on CPU."""


class Measured(Value):
    """A phase's peak was measured."""

    event: Literal["measured"] = "measured"
    time: float
    phase: PhaseName
    allocated_bytes: int | None = None
    reserved_bytes: int | None = None
    tracked_bytes: int | None = None


class Evaluated(Value):
    """Held-out loss."""

    event: Literal["evaluated"] = "evaluated"
    time: float
    step: int
    eval_loss: float


class Saved(Value):
    """A checkpoint, or the final weights, are on disk."""

    event: Literal["saved"] = "saved"
    time: float
    step: int
    path: str
    size_bytes: int


class Warned(Value):
    """Worth a person's attention; the run goes on."""

    event: Literal["warned"] = "warned"
    time: float
    message: str


class Failed(Value):
    """The run ends here, and why."""

    event: Literal["failed"] = "failed"
    time: float
    message: str
    remedy: str | None = None
    phase: PhaseName | None = None
    interrupted: bool = False
    """Somebody stopped it; nothing went wrong."""


class Finished(Value):
    """The run is complete; the report is written."""

    event: Literal["finished"] = "finished"
    time: float
    report: str


Event = Annotated[
    Started | Progress | Step | Measured | Evaluated | Saved | Warned | Failed | Finished,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str) -> Event | None:
    """One line of the worker's stdout as an Event; None for a line that is not one (a library's print)."""
    try:
        return EVENT.validate_json(line)
    except ValueError:
        return None
