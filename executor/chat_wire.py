"""What ``chat`` and its child process say to each other: one JSON object a line, besides the events."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from vramplan.executor.events import Failed, Finished, Progress
from vramplan.executor.finished import Tuned
from vramplan.planner.values import Value


class ChatRequest(Value):
    """What is loaded."""

    runs: tuple[Tuned, ...]
    """The first one's plan says where the base is and how it is quantised."""


class Turn(Value):
    """One message of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class Ask(Value):
    """One question."""

    run: int | None
    """Which of the request's runs answers; None: the base."""
    turns: tuple[Turn, ...]
    """The conversation so far; the last turn is the question."""
    template: bool
    """Write the turns with the tokenizer's chat template; otherwise the last turn is sent as it is."""
    max_new_tokens: int
    temperature: float
    """0: always the likeliest token."""
    seed: int


class Ready(Value):
    """Everything is loaded."""

    event: Literal["ready"] = "ready"
    device: str
    has_template: bool


class Piece(Value):
    """The next few characters of an answer."""

    event: Literal["piece"] = "piece"
    text: str


class Answered(Value):
    """The answer is complete, or was cut short."""

    event: Literal["answered"] = "answered"
    new_tokens: int
    seconds: float
    stopped: bool = False
    """Somebody stopped it."""


Said = Annotated[Ready | Piece | Answered | Progress | Failed | Finished, Field(discriminator="event")]
SAID: TypeAdapter[Said] = TypeAdapter(Said)


def parse_said(line: str) -> Said | None:
    """One line of the child's stdout; None for a line that is not one (a library's print)."""
    try:
        return SAID.validate_json(line)
    except ValueError:
        return None
