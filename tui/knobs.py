"""The options a person turns on the Setup screen, as one table: what each is called, its flag and its values."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.space import SEARCHED_METHODS
from vramplan.planner.training_setup import Attention, Loss, Optimizer
from vramplan.tui.choice import Knobs, MixedPrecision, Priced

POWERS = tuple(2**exponent for exponent in range(21))


@dataclass(frozen=True)
class Knob:
    """One option. ``name`` is its field in Knobs; ``values`` are what turning it walks through."""

    name: str
    label: str
    flag: str
    values: tuple[Any, ...]
    resolved: Callable[[Priced], Any]
    """The value in force, read from a priced choice."""
    typed: type[int] | type[str] | None = None
    """What an exact value is typed as; None when the values are all there are."""
    minimum: int = 1


def _rank(priced: Priced) -> int | None:
    return getattr(priced.candidate.setup.method, "r", None)


KNOBS: tuple[Knob, ...] = (
    Knob("method", "method", "--method", SEARCHED_METHODS, lambda p: p.candidate.setup.method.kind),
    Knob(
        "sequence_length",
        "sequence length",
        "--sequence-length",
        POWERS[6:18],
        lambda p: p.candidate.workload.sequence_length,
        int,
    ),
    Knob("micro_batch", "micro batch", "--micro-batch", POWERS[:11], lambda p: p.candidate.setup.micro_batch_size, int),
    Knob("rank", "rank", "--rank", POWERS[:11], _rank, int),
    Knob(
        "gradient_checkpointing",
        "checkpointing",
        "--gradient-checkpointing",
        (False, True),
        lambda p: p.candidate.setup.gradient_checkpointing,
    ),
    Knob("optimizer", "optimizer", "--optimizer", get_args(Optimizer), lambda p: p.candidate.setup.optimizer),
    Knob("data", "training file", "--data", (), lambda p: p.recipe.data, str),
    Knob("max_steps", "steps", "--max-steps", POWERS[:14], lambda p: p.recipe.max_steps, int),
    Knob(
        "alpha", "alpha", "--alpha", POWERS[:12], lambda p: getattr(p.candidate.setup.method, "lora_alpha", None), int
    ),
    Knob("attention", "attention", "--attention", get_args(Attention), lambda p: p.candidate.setup.attention),
    Knob("loss", "loss", "--loss", get_args(Loss), lambda p: p.candidate.setup.loss),
    Knob("dtype", "dtype", "--dtype", get_args(FloatDtype), lambda p: p.candidate.setup.precision.dtype),
    Knob(
        "mixed_precision",
        "mixed precision",
        "--mixed-precision",
        get_args(MixedPrecision),
        lambda p: p.candidate.setup.precision.mixed_precision,
    ),
)


def turned(knob: Knob, current: Any, direction: int) -> Any:
    """The next value in a direction. Numbers stop at the ends; words go round.

    >>> turned(KNOBS[1], 1000, 1), turned(KNOBS[1], 1024, -1)
    (1024, 512)
    >>> turned(KNOBS[0], "ln-tuning", 1)
    'lora'
    """
    if not knob.values:
        return current
    if knob.typed is int:
        ahead = [value for value in knob.values if current is None or (value - current) * direction > 0]
        return current if not ahead else min(ahead) if direction > 0 else max(ahead)
    at = knob.values.index(current) if current in knob.values else -direction
    return knob.values[(at + direction) % len(knob.values)]


def shown(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "–"
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def read_typed(knob: Knob, text: str) -> Any:
    """What was typed, as the knob's type; an empty text is the default.

    Raises:
        ValueError: it is not a whole number of at least the knob's minimum.
    """
    text = text.strip()
    if not text:
        return None
    if knob.typed is str:
        return text
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < knob.minimum:
        raise ValueError(f"{knob.label} is a whole number from {knob.minimum} up, not {text!r}")
    return int(text)


def in_force(knob: Knob, knobs: Knobs, priced: Priced | None) -> Any:
    """The value that counts: what was set, else what the default resolved to, else None."""
    value = getattr(knobs, knob.name)
    return knob.resolved(priced) if value is None and priced is not None else value
