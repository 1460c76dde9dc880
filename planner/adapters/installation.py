"""What is installed here, and what this machine offers: read once, judged by ``vramplan doctor``."""

import importlib.metadata
import os
import platform
import shutil
from pathlib import Path

from vramplan.planner.adapters.devices import inspect_devices
from vramplan.planner.adapters.nvml import Readings
from vramplan.planner.values import Value

DISTRIBUTION = "vramplan"
READERS = ("pyarrow", "jinja2")
"""What reads training data beside the standard library: Parquet, and chat templates."""
SHIPPED = ("catalogue/index.json", "catalogue/models.jsonl.xz", "programs/programs.zip")


class CacheFolder(Value):
    """A folder that is written to beside a person's own."""

    what: str
    path: str
    writable: bool
    free_bytes: int


class Installation(Value):
    """A reading of this machine."""

    python: str
    requires_python: str
    requirements: tuple[str, ...]
    """As vramplan's own metadata has them, extras as markers (PEP 508)."""
    installed: dict[str, str]
    """Distribution to version, of those required and of the readers."""
    shipped: bool
    """The catalogue and the memory programs are where the package put them."""
    readings: Readings
    caches: tuple[CacheFolder, ...]
    hub: str | None = None
    """None: not asked; empty: reachable; else why not."""


def read_installation(*, online: bool = False) -> Installation:
    """Look at this machine. The Hub is asked only when told to."""
    metadata = importlib.metadata.metadata(DISTRIBUTION)
    requirements = tuple(importlib.metadata.requires(DISTRIBUTION) or ())
    names = {_name(requirement) for requirement in requirements} | set(READERS)
    found = {name: _version(name) for name in sorted(names)}
    package = Path(__file__).resolve().parent.parent
    return Installation(
        python=platform.python_version(),
        requires_python=str(metadata["Requires-Python"] or ""),
        requirements=requirements,
        installed={name: version for name, version in found.items() if version is not None},
        shipped=all((package / name).is_file() for name in SHIPPED),
        readings=inspect_devices(),
        caches=_caches(),
        hub=_ask_hub() if online else None,
    )


def _name(requirement: str) -> str:
    return requirement.partition(";")[0].strip().partition("[")[0].rstrip("<>=!~,.*0123456789 ").strip()


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _caches() -> tuple[CacheFolder, ...]:
    from platformdirs import user_cache_path

    folders = [("cache of counts and programs", user_cache_path(DISTRIBUTION))]
    try:
        from huggingface_hub import constants

        folders.append(("the Hub's cache of models", Path(constants.HF_HUB_CACHE)))
    except ImportError:
        pass  # told as a package that is missing
    return tuple(_cache(what, folder) for what, folder in folders)


def _cache(what: str, folder: Path) -> CacheFolder:
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return CacheFolder(what=what, path=str(folder), writable=writable, free_bytes=shutil.disk_usage(there).free)


def _ask_hub() -> str:
    """Empty where the Hub answers; else the kind of failure, never its text: that may hold an address with a secret."""
    try:
        from huggingface_hub import HfApi

        HfApi().model_info("openai-community/gpt2", timeout=10.0)
    except Exception as problem:  # the client raises its own, its HTTP library's and the system's errors
        return type(problem).__name__
    return ""
