"""Versions of the libraries that decide memory, read from their metadata: importing them would cost seconds."""

from importlib.metadata import PackageNotFoundError, version

TRAIN_PACKAGES = ("torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes", "datasets")


def installed_packages(names: tuple[str, ...] = TRAIN_PACKAGES) -> dict[str, str]:
    """Name -> version of those that are installed."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
