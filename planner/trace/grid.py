"""Which memory programs ship: every cell of grid.toml, as keys.

A cell says what a person would: models, a device, options of ``vramplan estimate``. So a key of the grid is the key
that an estimate with those options asks for.
"""

import importlib.resources
import tomllib
from collections.abc import Iterator
from itertools import product
from typing import Any

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError
from vramplan.planner.memory.structure import program_key
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.resolve import resolve

FOLDER = importlib.resources.files("vramplan.planner.programs")


def grid_keys() -> Iterator[tuple[str, ProgramKey]]:
    """(what it is in words, key) of every program of the grid. A combination that an estimate would refuse (a prefix
    with checkpointing) is none."""
    for cell in tomllib.loads((FOLDER / "grid.toml").read_text())["cell"]:
        device, _ = resolve_device(cell["device"], memory_bytes=None, reserve_bytes=0)
        assert device is not None
        for name in cell["models"]:
            task = cell.get("options", {}).get("task")
            model = model_for_task(resolve_model(name, online=False), task, None)
            for given in _choices(cell):
                try:
                    yield _words(name, cell["device"], given), _key(model, given, device)
                except UsageError:
                    continue


def _choices(cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of a cell: its options, one of its methods, one value of each thing that varies."""
    vary: dict[str, list[Any]] = cell["vary"]
    for method, values in product(cell["methods"], product(*vary.values())):
        yield {**cell.get("options", {}), **method, **dict(zip(vary, values, strict=True))}


def _key(model: ModelSpec, given: dict[str, Any], device: Device) -> ProgramKey:
    resolved = resolve(given, model, device)
    assert device.route is not None
    return program_key(model, resolved.workload, resolved.setup, device.route, device)


def _words(model: str, device: str, given: dict[str, Any]) -> str:
    return " ".join([model, device, *(f"{name}={value}" for name, value in given.items())])
