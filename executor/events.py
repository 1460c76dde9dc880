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
    temperature_celsius: int | None = None
    power_watts: float | None = None
    """The GPU's own sensors, at most a second old; None without one."""


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
    seconds: float | None = None
    free_bytes: int | None = None
    """Left on the disk afterwards."""


class Verified(Value):
    """The few steps before the run went as planned: it may start. The evidence is in ``report``."""

    event: Literal["verified"] = "verified"
    time: float
    report: str
    process_bytes: int | None = None


class Paused(Value):
    """Somebody asked the run to wait. Its last step is saved; its memory stays taken."""

    event: Literal["paused"] = "paused"
    time: float
    step: int


class Resumed(Value):
    """It goes on where it waited."""

    event: Literal["resumed"] = "resumed"
    time: float
    step: int
    paused_seconds: float


class OutOfMemory(Value):
    """Memory ran out; the run goes on one rung lower, or ends, as the events after this one say."""

    event: Literal["out_of_memory"] = "out_of_memory"
    time: float
    step: int
    message: str
    phase: PhaseName | None = None
    allocator: dict[str, int] = Field(default_factory=dict)
    """The allocator's own figures, in bytes; empty on a CPU."""


class Rung(Value):
    """The next rung of the ladder: the same plan, changed so that it needs less."""

    event: Literal["rung"] = "rung"
    time: float
    change: str
    process_bytes: int | None = None
    high_process_bytes: int | None = None
    from_step: int = 0
    """The step of the checkpoint it goes on from; 0: from the start."""


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
    out_of_memory: OutOfMemory | None = None
    """What ran out, where that is why."""
    rank: int = 0
    """Which of several processes says so."""
    lost_peer: bool = False
    """It only failed because another rank did."""


class Finished(Value):
    """The run is complete; the report is written."""

    event: Literal["finished"] = "finished"
    time: float
    report: str


Event = Annotated[
    Started
    | Progress
    | Step
    | Measured
    | Evaluated
    | Saved
    | Verified
    | Paused
    | Resumed
    | OutOfMemory
    | Rung
    | Warned
    | Failed
    | Finished,
    Field(discriminator="event"),
]
EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(line: str) -> Event | None:
    """One line of the worker's stdout as an Event; None for a line that is not one (a library's print)."""
    try:
        return EVENT.validate_json(line)
    except ValueError:
        return None


class RanksEnded(Value):
    """How the processes of an attempt ended, where not all ended well. Said by the agent to the launcher
    alone, so it is no event of the run."""

    event: Literal["ranks_ended"]
    time: float
    exit_statuses: dict[int, int]
    """By rank; negative for the signal that ended it."""


def parse_ranks_ended(line: str) -> RanksEnded | None:
    """One line of the agent's stdout as what it says at the end; None for any other."""
    try:
        return RanksEnded.model_validate_json(line)
    except ValueError:
        return None
