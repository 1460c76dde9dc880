"""The options a person turns, as one table: what each is called, its flag, its values and where it is turned."""

from argparse import ArgumentTypeError
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from vramplan.planner.adapters.clusters import link_names, make_cluster
from vramplan.planner.cli.parsing import size
from vramplan.planner.cli.recommend import priorities
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.errors import UsageError
from vramplan.planner.objectives import PRIORITIES, Complexity, Objectives
from vramplan.planner.space import SEARCHED_METHODS
from vramplan.planner.training_setup import Attention, Loss, Offload, Optimizer, Sharding
from vramplan.planner.two_stage import TWO_STAGE
from vramplan.planner.workload import Task
from vramplan.tui.choice import Knobs, MixedPrecision, Priced

Place = Literal["budget", "workload", "hardware"]
POWERS = tuple(2**exponent for exponent in range(21))
SIZES = tuple(f"{power}GiB" for power in POWERS[:12])


def links(text: str) -> str:
    """Names of links as ``--interconnect`` takes them.

    Raises:
        UsageError: no such link, or two of a kind.
    """
    make_cluster(text, None)
    return text


@dataclass(frozen=True)
class Knob:
    """One option. ``name`` is its field in Knobs; ``values`` are what turning it walks through."""

    name: str
    label: str
    flag: str
    values: tuple[Any, ...]
    resolved: Callable[[Priced], Any] | None
    """The value in force, read from a priced choice; None: its default always is."""
    typed: type[int] | type[float] | type[str] | None = None
    """What an exact value is typed as; None when the values are all there are."""
    minimum: int = 1
    default: Any = None
    """The value in force where nothing is priced yet; None: it takes a model to say."""
    places: tuple[Place, ...] = ("budget",)
    """The screens it is turned on."""
    read: Callable[[str], Any] | None = None
    """How the command line reads it; what is kept is the text."""


def _rank(priced: Priced) -> int | None:
    return getattr(priced.candidate.setup.method, "r", None)


KNOBS: tuple[Knob, ...] = (
    Knob("method", "method", "--method", (*SEARCHED_METHODS, TWO_STAGE), lambda p: p.candidate.setup.method.kind),
    Knob(
        "sequence_length",
        "sequence length",
        "--sequence-length",
        POWERS[6:18],
        lambda p: p.candidate.workload.sequence_length,
        int,
        places=("budget", "workload"),
    ),
    Knob(
        "micro_batch",
        "micro batch",
        "--micro-batch",
        POWERS[:11],
        lambda p: p.candidate.setup.micro_batch_size,
        int,
        places=("budget", "workload"),
    ),
    Knob("rank", "rank", "--rank", POWERS[:11], _rank, int),
    Knob(
        "gradient_checkpointing",
        "checkpointing",
        "--gradient-checkpointing",
        (False, True),
        lambda p: p.candidate.setup.gradient_checkpointing,
    ),
    Knob("optimizer", "optimizer", "--optimizer", get_args(Optimizer), lambda p: p.candidate.setup.optimizer),
    Knob("data", "training file", "--data", (), lambda p: p.recipe.data, str, places=("budget", "workload")),
    Knob(
        "max_steps",
        "steps",
        "--max-steps",
        POWERS[:14],
        lambda p: p.recipe.max_steps,
        int,
        places=("budget", "workload"),
    ),
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
    Knob(
        "num_train_epochs",
        "epochs",
        "--num-train-epochs",
        tuple(float(epochs) for epochs in range(1, 11)),
        lambda p: p.recipe.num_train_epochs,
        float,
        places=("workload",),
    ),
    Knob(
        "tokens_per_step",
        "tokens a step",
        "--tokens-per-step",
        POWERS[10:21],
        None,
        int,
        places=("workload",),
    ),
    Knob("task", "task", "--task", get_args(Task), lambda p: p.candidate.workload.task, places=("workload",)),
    Knob(
        "prefer",
        "matters most",
        "--prefer",
        PRIORITIES,
        None,
        str,
        default=",".join(Objectives().prefer),
        places=("workload",),
        read=priorities,
    ),
    Knob(
        "complexity",
        "the task is",
        "--complexity",
        get_args(Complexity),
        None,
        default=Objectives().complexity,
        places=("workload",),
    ),
    Knob(
        "num_tasks",
        "tasks, one base",
        "--num-tasks",
        POWERS[:7],
        None,
        int,
        default=Objectives().num_tasks,
        places=("workload",),
    ),
    Knob(
        "keep_knowledge",
        "keep knowledge",
        "--keep-knowledge",
        (False, True),
        None,
        default=Objectives().keep_knowledge,
        places=("workload",),
    ),
    Knob(
        "must_merge",
        "one merged model",
        "--must-merge",
        (False, True),
        None,
        default=Objectives().must_merge,
        places=("workload",),
    ),
    Knob(
        "latency_budget",
        "may be slower by",
        "--latency-budget",
        (0.01, 0.02, 0.05, 0.1, 0.2, 0.3),
        None,
        float,
        places=("workload",),
    ),
    Knob(
        "gpus",
        "GPUs a node",
        "--gpus",
        POWERS[:5],
        lambda p: p.candidate.setup.gpus,
        int,
        default=1,
        places=("hardware",),
    ),
    Knob(
        "nodes", "nodes", "--nodes", POWERS[:8], lambda p: p.candidate.setup.nodes, int, default=1, places=("hardware",)
    ),
    Knob(
        "sharding",
        "sharding",
        "--sharding",
        get_args(Sharding),
        lambda p: p.candidate.setup.sharding,
        default="none",
        places=("hardware",),
    ),
    Knob(
        "offload", "offload", "--offload", get_args(Offload), lambda p: p.candidate.setup.offload, places=("hardware",)
    ),
    Knob("reserve", "kept back", "--reserve", SIZES[:5], None, str, default="0", places=("hardware",), read=size),
    Knob("host_memory", "host memory", "--host-memory", SIZES[5:], None, str, places=("hardware",), read=size),
    Knob(
        "interconnect",
        "interconnect",
        "--interconnect",
        link_names(),
        None,
        str,
        places=("hardware",),
        read=links,
    ),
)


def knobs_at(place: Place) -> tuple[Knob, ...]:
    """The options that are turned on a screen."""
    return tuple(knob for knob in KNOBS if place in knob.places)


def turned(knob: Knob, current: Any, direction: int) -> Any:
    """The next value in a direction. Numbers stop at the ends; words go round.

    >>> turned(KNOBS[1], 1000, 1), turned(KNOBS[1], 1024, -1)
    (1024, 512)
    >>> turned(KNOBS[0], "two-stage", 1)
    'lora'
    """
    if not knob.values:
        return current
    if knob.typed in (int, float):
        ahead = [value for value in knob.values if current is None or (value - current) * direction > 0]
        return current if not ahead else min(ahead) if direction > 0 else max(ahead)
    at = knob.values.index(current) if current in knob.values else -direction
    return knob.values[(at + direction) % len(knob.values)]


def shown(value: Any) -> str:
    """A value as a person reads it."""
    if value is None or value in ({}, [], ()):
        return "–"
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def read_typed(knob: Knob, text: str) -> Any:
    """What was typed, as the knob's type; an empty text is the default.

    Raises:
        ValueError: it is not a number above zero, or where it must be whole not one of at least the knob's minimum; or
            it is nothing the command line takes.
    """
    text = text.strip()
    if not text:
        return None
    if knob.read is not None:
        try:
            knob.read(text)
        except UsageError as error:
            raise ValueError(f"{error.message}; {error.remedy}") from error
        except ArgumentTypeError as error:
            raise ValueError(f"{knob.label}: {error}") from error
    if knob.typed is str:
        return text
    if knob.typed is float:
        return _read_fraction(knob, text)
    if not (text.isascii() and text.isdecimal()) or len(text) > 9 or int(text) < knob.minimum:
        raise ValueError(f"{knob.label} is a whole number from {knob.minimum} up, not {text!r}")
    return int(text)


def _read_fraction(knob: Knob, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not (0.0 < value < float("inf")):
        raise ValueError(f"{knob.label} is a number above 0, not {text!r}")
    return value


def in_force(knob: Knob, knobs: Knobs, priced: Priced | None) -> Any:
    """The value that counts: what was set, else what the default resolved to, else None."""
    value = knobs.value(knob.name)
    if value is not None:
        return value
    return knob.default if priced is None or knob.resolved is None else knob.resolved(priced)
