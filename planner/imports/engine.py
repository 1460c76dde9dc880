"""What a reader of another trainer's config gives, and the words that several trainers share."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, get_args

from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.training_setup import Optimizer

Config = Mapping[str, Any]


class Imported(NamedTuple):
    """A config as options of ``vramplan estimate``."""

    engine: str
    model: str
    options: dict[str, Any]
    """By option name; the trainer's own defaults among them, where it has others than ours."""
    unread: tuple[str, ...]
    """Keys that decide nothing here, or that are not known."""
    notes: tuple[str, ...] = ()


class Reader(NamedTuple):
    """How one trainer's config is read."""

    name: str
    knows: Callable[[Config], bool]
    model_key: str
    keys: frozenset[str]
    """What ``options`` reads."""
    refused: Mapping[str, tuple[tuple[Any, ...], str]]
    """Keys that change what is allocated in ways nobody here has counted: the values that do not, and why others do."""
    options: Callable[[Config, frozenset[str]], dict[str, Any]]
    """Options of a config; the second says which a person gave beside it."""
    notes: Callable[[Config], Iterable[str]]
    """Where the price is of something a little different."""


RECIPE_KEYS = {
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "lr_scheduler_type",
    "warmup_steps": "warmup_steps",
    "weight_decay": "weight_decay",
    "max_grad_norm": "max_grad_norm",
    "num_train_epochs": "num_train_epochs",
    "seed": "seed",
}
"""TrainingArguments that are options of ours by the same name."""
_OPTIMIZERS: dict[str, str] = {"adamw_bnb_8bit": "adamw_8bit", "adamw_hf": "adamw_torch"} | {
    name: name for name in get_args(Optimizer)
}
"""transformers' OptimizerNames; adamw_bnb_8bit and adamw_8bit are the same."""
OFF: tuple[Any, ...] = (None, False, "", [], {})
"""Values that say a feature is not used."""
SHARDING = "it shards over several GPUs: give --gpus and --sharding on the command line"


def read_config(config: Config, readers: Iterable[Reader], *, given: Iterable[str] = ()) -> Imported:
    """The config as options.

    Args:
        given: names of options a person gave beside the file; they win, so what the file says of them may be anything.

    Raises:
        UsageError: no trainer's config is like this, or it names no model.
        UnsupportedError: a key asks for something that is not priced; every such key is named.
    """
    reader = next((reader for reader in readers if reader.knows(config)), None)
    if reader is None:
        raise UsageError(
            "this is no config of TRL, Axolotl or LLaMA-Factory",
            remedy="it has model_name_or_path (TRL, LLaMA-Factory) or base_model (Axolotl)",
        )
    model = config.get(reader.model_key)
    if not isinstance(model, str) or not model:
        raise UsageError(f"{reader.model_key} names no model", remedy="name the model there, or on the command line")
    sharded = {"deepspeed", "fsdp", "fsdp_config"} if "sharding" in given else set()
    wrong = [
        f"{key} {config[key]!r:.60}: {why}"
        for key, (harmless, why) in reader.refused.items()
        if key in config and config[key] not in (*OFF, *harmless) and key not in sharded
    ]
    if wrong:
        raise UnsupportedError(
            f"{reader.name}: not priced: {'; '.join(wrong)}", remedy="take them out of the file to price the rest"
        )
    unread = sorted(set(config) - reader.keys - set(reader.refused) - {reader.model_key})
    found = reader.options(config, frozenset(given))
    options = {name: value for name, value in found.items() if value is not None}
    return Imported(reader.name, model, options, tuple(unread), tuple(reader.notes(config)))


def take(config: Config, key: str, default: Any, *kinds: type) -> Any:
    """A key's value, the trainer's default where it is absent or null.

    Raises:
        UsageError: the value is of another kind.
    """
    value = config.get(key)
    if value is None:
        return default
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if float in kinds and isinstance(value, str):  # YAML 1.1 reads 2e-4 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise UsageError(f"{key} {value!r:.60} is no {kinds[0].__name__}", remedy=f"correct {key} in the file")
    return value


def optimizer(config: Config, key: str, default: str) -> str:
    """The optimizer by our name.

    Raises:
        UnsupportedError: it is none that is priced.
    """
    name = take(config, key, default, str)
    if name not in _OPTIMIZERS:
        raise UnsupportedError(
            f"{key} {name[:40]!r} is not priced", remedy=f"give --optimizer; priced: {', '.join(get_args(Optimizer))}"
        )
    return _OPTIMIZERS[name]


def names(value: Any, key: str) -> str | None:
    """A list of names, or names with commas, as an option takes them; None where there are none.

    Raises:
        UsageError: it is neither.
    """
    if value in OFF:
        return None
    found = value.split(",") if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"{key} {value!r:.60} is no list of names", remedy=f"correct {key} in the file")
    return ",".join(dict.fromkeys(name.strip() for name in found))


def reentrant(config: Config) -> bool:
    """Whether checkpointing was asked to be the reentrant kind."""
    kwargs = config.get("gradient_checkpointing_kwargs")
    return isinstance(kwargs, dict) and bool(kwargs.get("use_reentrant"))


def recipe(config: Config) -> dict[str, Any]:
    """What decides the result besides memory, as far as TrainingArguments' own names go."""
    found = {option: config[key] for key, option in RECIPE_KEYS.items() if config.get(key) is not None}
    for option in ("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "num_train_epochs"):
        if option in found:
            found[option] = take(config, option, None, float)
    return found
