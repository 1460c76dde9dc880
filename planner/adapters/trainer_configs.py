"""Another trainer's config file, read as data: YAML's safe subset, bounded in size, never run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from vramplan.planner.errors import UsageError
from vramplan.planner.imports import axolotl, llamafactory, trl
from vramplan.planner.imports.engine import Imported, read_config

SUFFIXES = (".yaml", ".yml")
MAX_BYTES = 2**20
MAX_DEPTH = 32


def read_trainer_config(path: Path, *, given: Iterable[str] = ()) -> Imported:
    """A config of TRL, Axolotl or LLaMA-Factory as options; see ``imports.engine.read_config``.

    Raises:
        UsageError: the file cannot be read, is no such config, or a value makes no sense.
        UnsupportedError: it asks for something that is not priced.
    """
    import yaml

    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as problem:
        raise UsageError(
            f"cannot read {path.name[-80:]!r}: {problem.strerror or problem}", remedy="name a config file, or a model"
        ) from None
    if len(content) > MAX_BYTES:
        raise UsageError(f"{path.name[-80:]!r} is larger than 1 MiB", remedy="name a trainer's config file")
    try:
        _check_shape(yaml.parse(content, yaml.SafeLoader), path.name[-80:])
        config = yaml.safe_load(content)
    except (yaml.YAMLError, ValueError, RecursionError) as problem:
        first = str(problem).splitlines()[0][:120] if str(problem) else type(problem).__name__
        raise UsageError(f"{path.name[-80:]!r} is no YAML: {first}", remedy="correct the file") from None
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UsageError(f"{path.name[-80:]!r} holds no settings by name", remedy="name a trainer's config file")
    return read_config(config, (axolotl.READER, llamafactory.READER, trl.READER), given=given)


def _check_shape(events: Iterable[Any], name: str) -> None:
    """Refuse what is small as text and endless to read: a kilobyte of aliases of aliases is terabytes once anything
    prints the value, and PyYAML takes time with the square of the depth.

    Raises:
        UsageError: an alias, or more levels than a trainer's config has.
    """
    depth = 0
    for event in events:
        kind = type(event).__name__
        if kind == "AliasEvent":
            raise UsageError(f"{name!r} repeats values by aliases (*name)", remedy="write them out")
        depth += kind.endswith("StartEvent") - kind.endswith("EndEvent")
        if depth > MAX_DEPTH:
            raise UsageError(f"{name!r} is nested deeper than any trainer's config", remedy="correct the file")
