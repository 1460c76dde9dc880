"""What every test may rely on: tests that need an absent extra or device are skipped, caches are never a person's."""

import atexit
import importlib.util
import os
import tempfile
import warnings
from pathlib import Path

import pytest

_TRAIN_PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets")
_CACHES = tempfile.TemporaryDirectory(prefix="vramplan-tests-")
atexit.register(_CACHES.cleanup)

# Before any import of the package: platformdirs and huggingface_hub read these once. Children inherit them.
for _variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "HF_HOME"):
    os.environ[_variable] = str(Path(_CACHES.name) / _variable.lower())


def _missing_train_package() -> str | None:
    return next((name for name in _TRAIN_PACKAGES if importlib.util.find_spec(name) is None), None)


def _cuda_is_available() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        return torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = _missing_train_package()
    on_gpu = [item for item in items if item.get_closest_marker("gpu")]
    if missing is not None:
        for item in items:
            if item.get_closest_marker("train"):
                item.add_marker(pytest.mark.skip(reason=f"needs the train extra ({missing} is not installed)"))
    if on_gpu and not _cuda_is_available():
        for item in on_gpu:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
