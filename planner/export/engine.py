"""Exports: a plan as files for something else that trains, or starts training. What cannot be said there is refused.

An engine names every field it is told (``tells``). A field it is not told must be at its default, and a value it has no
word for is a ``Refusal``: nothing of a plan is dropped on the way. Fields are named as in the plan file:
``setup.optimizer``, ``setup.method.r``, ``recipe.learning_rate`` ...
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NamedTuple

from pydantic import BaseModel

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.plan import Plan

NO_DEFAULT = object()
"""The default of a field that must be given."""
_NOT_A_CHOICE = (
    "model.model_type", "model.architecture", "model.config_sha256", "model.total_params", "model.trainable_params",
    "model.provenance", "workload.sequences_per_step", "workload.valid_label_fraction", "workload.num_examples",
    "workload.num_train_epochs", "workload.length_quantiles", "data.size_bytes",
)  # fmt: skip
"""What was read, counted or follows from other fields: nothing that an engine could be told."""
_FLAGS = {
    "data.path": "data",
    "setup.micro_batch_size": "micro-batch",
    "setup.method.r": "rank",
    "setup.method.lora_alpha": "alpha",
    "setup.method.target_modules": "target",
    "setup.method.kind": "method",
}


class Choice(NamedTuple):
    """A field's value, and the value it has when nobody says anything."""

    value: Any
    default: Any


class Refusal(NamedTuple):
    """A field an engine has no words for."""

    field: str
    value: Any
    because: str
    nearest: str
    """The nearest thing that can be said, as an option of ``vramplan plan``."""


class Source(NamedTuple):
    """What an export is made from."""

    plan: Plan
    row_kind: str | None
    """``text``, ``prompt-completion`` or ``messages``; None where the training file is not here."""


Files = dict[str, str]
"""Contents by file name."""


class Engine(NamedTuple):
    """Something a plan is exported to.

    ``tells`` has, for each field the engine is told, where: its own key, or words. ``refuses`` yields what this very
    plan asks for and the engine has no words for, besides fields it is not told at all. ``write`` makes the files of a
    plan that nothing of is refused.
    """

    name: str
    summary: str
    tells: Mapping[str, str]
    refuses: Callable[[Source], Iterable[Refusal]]
    write: Callable[[Source], Files]


def export(engine: Engine, source: Source) -> Files:
    """The files of a plan for an engine.

    Raises:
        UnsupportedError: the engine cannot be told something the plan says; every such field is named.
    """
    refusals = list(refused(engine, source))
    if refusals:
        words = "; ".join(f"{r.field} {shown(r.value)}: {r.because}" for r in refusals)
        nearest = dict.fromkeys(refusal.nearest for refusal in refusals)
        raise UnsupportedError(f"{engine.name} cannot be told {words}", remedy=f"nearest: {'; '.join(nearest)}")
    return engine.write(source)


def refused(engine: Engine, source: Source) -> Iterator[Refusal]:
    """Every field of a plan that an engine cannot be told, each once."""
    seen = set()
    for refusal in (*engine.refuses(source), *_untold(engine, source.plan)):
        if refusal.field not in seen:
            seen.add(refusal.field)
            yield refusal


def choices(plan: Plan) -> dict[str, Choice]:
    """Every field of a plan that somebody chose, by its dotted name."""
    found: dict[str, Choice] = {"device.kind": Choice(plan.device.kind if plan.device else None, None)}
    for part in ("model", "workload", "setup", "recipe"):
        found |= _fields(getattr(plan, part), part)
    found |= _fields(plan.data, "data") if plan.data is not None else {"data.path": Choice(None, NO_DEFAULT)}
    return {name: choice for name, choice in found.items() if not name.startswith(_NOT_A_CHOICE)}


def only(plan: Plan, field: str, *allowed: Any, because: str) -> Iterator[Refusal]:
    """A refusal unless the field has one of these values."""
    value: Any = plan
    for name in field.split("."):
        value = getattr(value, name)
    if value not in allowed:
        close = get_close_matches(str(value), [str(one) for one in allowed], n=1, cutoff=0.3)
        nearest = next((one for one in allowed if close and str(one) == close[0]), allowed[0])
        yield Refusal(field, value, because, flag(field, nearest))


def flag(field: str, value: Any) -> str:
    """A value as an option of ``vramplan plan``.

    >>> flag("setup.method.r", 8), flag("setup.packing", False), flag("recipe.eval_data", None)
    ('--rank 8', '--no-packing', 'without --eval-data')
    """
    name = _FLAGS.get(field, field.rpartition(".")[2].replace("_", "-"))
    if value is None or value in ((), {}):
        return f"without --{name}"
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name} {value:g}" if isinstance(value, float) else f"--{name} {value}"


def shown(value: Any) -> str:
    """A value in a sentence: short, on one line."""
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _untold(engine: Engine, plan: Plan) -> Iterator[Refusal]:
    for field, choice in choices(plan).items():
        if field not in engine.tells and choice.value != choice.default:
            default = None if choice.default is NO_DEFAULT else choice.default
            yield Refusal(field, choice.value, "it has no such setting", flag(field, default))


def _fields(value: BaseModel, prefix: str) -> dict[str, Choice]:
    found: dict[str, Choice] = {}
    for name, field in type(value).model_fields.items():
        inner = getattr(value, name)
        if isinstance(inner, BaseModel):
            found |= _fields(inner, f"{prefix}.{name}")
        else:
            default = NO_DEFAULT if field.is_required() else field.get_default(call_default_factory=True)
            found[f"{prefix}.{name}"] = Choice(inner, default)
    return found
