"""Where a machine keeps what its runs have shown: one JSON file a product, in the user's data folder.

A file that cannot be read counts as none: figures then are the priors, and the next run writes it anew.
"""

import json
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

from vramplan.planner.device import Device
from vramplan.planner.memory.outside import PRIOR, Figures

if TYPE_CHECKING:
    from vramplan.planner.calibration import Observation

FORMAT = 1
MOST = 500
"""The newest plans that are kept a product."""


def calibration_folder() -> Path:
    """Where the files are; it need not exist."""
    return Path(platformdirs.user_data_dir("vramplan")) / "calibration" / str(FORMAT)


def find_figures(device: Device | None) -> Figures:
    """The figures to price with on a device: the priors, moved by what was run on its product here."""
    if device is None or device.kind != "cuda" or device.source == "memory":
        return PRIOR
    path = _path(device.name)
    try:
        changed_at = path.stat().st_mtime_ns
    except OSError:
        return PRIOR
    return _folded(path, changed_at, device.name, installed_torch())


def read_observations(device_name: str) -> "tuple[Observation, ...]":
    """Everything kept of one product."""
    return _read(_path(device_name))


def calibrated_devices() -> tuple[str, ...]:
    """The products that something is kept of."""
    files = sorted(calibration_folder().glob("*.json"))
    return tuple(found[0].device for path in files if (found := _read(path)))


def remember(observations: "Sequence[Observation]") -> int:
    """Keep observations, each plan once; how many plans are kept of their products now.

    Raises:
        OSError: the data folder cannot be written.
    """
    from vramplan.planner.calibration import merged

    kept = 0
    for device in dict.fromkeys(each.device for each in observations):
        of_plan = {(each.plan_fingerprint, each.torch): each for each in read_observations(device)}
        for new in (each for each in observations if each.device == device):
            key = (new.plan_fingerprint, new.torch)
            of_plan[key] = merged(of_plan[key], new) if key in of_plan else new
        newest = sorted(of_plan.values(), key=lambda each: each.measured_at)[-MOST:]
        _write(_path(device), newest)
        kept += len(newest)
    return kept


def forget(device_name: str) -> bool:
    """Remove what is kept of one product; False when there was nothing."""
    try:
        _path(device_name).unlink()
    except FileNotFoundError:
        return False
    return True


def installed_torch() -> str | None:
    """The version that would run here; None without one."""
    try:
        return version("torch")
    except PackageNotFoundError:
        return None


@lru_cache(maxsize=8)
def _folded(path: Path, changed_at: int, device_name: str, torch: str | None) -> Figures:
    from vramplan.planner.calibration import comparable, fold

    return fold(comparable(_read(path), device_name, torch))


def _read(path: Path) -> "tuple[Observation, ...]":
    from pydantic import TypeAdapter  # what priced nothing measured here never reads a file

    from vramplan.planner.calibration import Observation

    with suppress(OSError, ValueError, KeyError, TypeError):  # pydantic's ValidationError is a ValueError
        observations = TypeAdapter(tuple[Observation, ...])
        return observations.validate_python(json.loads(path.read_bytes())["observations"], strict=False)
    return ()


def _write(path: Path, observations: "Sequence[Observation]") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    content = {"observations": [each.model_dump(mode="json") for each in observations]}
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.replace(path)


def _path(device_name: str) -> Path:
    """A name a file system takes, and a hash that keeps two products apart that share it."""
    slug = re.sub(r"[^a-z0-9]+", "-", device_name.lower()).strip("-")[:60] or "device"
    return calibration_folder() / f"{slug}-{sha256(device_name.encode()).hexdigest()[:8]}.json"
