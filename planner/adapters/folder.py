"""A model in a local folder: config.json, and the headers of its safetensors files; weights are never read."""

from pathlib import Path
from typing import Any

from vramplan.planner.adapters.inside import leads_outside, outside_words
from vramplan.planner.adapters.model_files import model_from_files
from vramplan.planner.adapters.safetensors_headers import read_folder_headers
from vramplan.planner.config_check import MAX_FILE_BYTES, parse_config
from vramplan.planner.errors import BadConfigError
from vramplan.planner.model_spec import ModelSpec

CONFIG = "config.json"


def read_folder(folder: Path) -> ModelSpec:
    """The model a folder holds.

    Raises:
        BadConfigError: there is no readable config.json, or it, a header or a shape makes no sense.
        UnsupportedError: transformers has no class for the model_type.
        MissingExtraError: only transformers could count the weights, and it is not installed.
    """
    config = read_config(folder)
    try:
        tensors = read_folder_headers(folder)
    except OSError as problem:
        raise _unreadable(folder, problem) from None
    return model_from_files(config, tensors, repo_id=str(folder.resolve()), source="folder")


def read_config(folder: Path) -> dict[str, Any]:
    """What config.json says, its size bounded.

    Raises:
        BadConfigError: there is none, it cannot be read, or it makes no sense.
    """
    return parse_config(_config_bytes(folder), f"{CONFIG} in {folder.name[-80:]!r}")


def _config_bytes(folder: Path) -> bytes:
    path = folder / CONFIG
    if not path.is_file():
        adapter = (folder / "adapter_config.json").is_file()
        raise BadConfigError(
            f"{folder.name[-80:]!r} is a PEFT adapter, not a model"
            if adapter
            else f"there is no {CONFIG} in {folder.name[-80:]!r}",
            remedy="name the base model; the adapter is added to it"
            if adapter
            else f"name a folder that holds a model's {CONFIG}",
        )
    if leads_outside(folder, path):
        raise BadConfigError(
            f"{CONFIG} in {folder.name[-80:]!r} {outside_words(path)}", remedy="put the file itself into the folder"
        )
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES + 1)
    except OSError as problem:
        raise _unreadable(folder, problem) from None


def _unreadable(folder: Path, problem: OSError) -> BadConfigError:
    return BadConfigError(
        f"cannot read {folder.name[-80:]!r}: {problem.strerror or problem}", remedy="check the folder's permissions"
    )
