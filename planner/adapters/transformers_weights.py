"""Ask the installed transformers what a config instantiates: in a child process, so torch never enters this one.

The answer depends on nothing but the config and the library, so it is kept in the user's cache folder.
"""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from vramplan.planner.errors import BadConfigError, MissingExtraError, UnsupportedError
from vramplan.planner.workload import Task

TIMEOUT_SECONDS = 300
"""Importing torch and transformers takes seconds, on a slow disk minutes."""


def transformers_installed() -> bool:
    """Whether the train extra's libraries are there, without importing them."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


def ask_transformers(
    config: dict[str, Any], where: str, *, task: Task | None = None, num_labels: int | None = None
) -> dict[str, Any]:
    """{"architecture", "config", "dtype", "output_embedding", "weights"} for a config, as trace.weights prints it.

    Args:
        task: count the class this task loads; None: the one the config names.
        num_labels: classes of a classifier.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        BadConfigError: transformers refuses the config.
        UnsupportedError: transformers gave no answer.
    """
    if not transformers_installed():
        raise MissingExtraError(
            f"counting the weights of {config['model_type'][:60]!r} needs transformers, which is not installed",
            remedy="pip install 'vramplan[train]'",
        )
    arguments = [] if task is None else ["--task", task]
    arguments += [] if num_labels is None else ["--num-labels", str(num_labels)]
    cache = _cache_file(config, arguments)
    with suppress(OSError, ValueError):
        kept: dict[str, Any] = json.loads(cache.read_bytes())
        return kept
    answer = _ask(config, where, arguments)
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(answer), encoding="utf-8")
        partial.replace(cache)
    return answer


def _cache_file(config: dict[str, Any], arguments: list[str]) -> Path:
    from platformdirs import user_cache_path

    asked = json.dumps([config, arguments, version("transformers"), version("vramplan")], sort_keys=True)
    return user_cache_path("vramplan") / "weights" / f"{hashlib.sha256(asked.encode()).hexdigest()}.json"


def _ask(config: dict[str, Any], where: str, arguments: list[str]) -> dict[str, Any]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
    try:
        child = subprocess.run(
            [sys.executable, "-P", "-m", "vramplan.planner.trace.weights", *arguments],
            input=json.dumps(config),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            env=environment,
            check=False,
        )
        answer: dict[str, Any] = json.loads(child.stdout.splitlines()[-1], parse_constant=str)
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        raise UnsupportedError(
            f"transformers gave no answer about {where}",
            remedy="check the installation: python -m vramplan.planner.trace.weights < config.json",
        ) from None
    if "error" in answer:
        raise BadConfigError(
            f"transformers cannot build {where}: {answer['error'].splitlines()[0][:200]!r}",
            remedy="check the config's fields against the model's documentation",
        )
    return answer
