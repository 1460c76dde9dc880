"""The examples in docstrings are true. Every module that holds one is run, except where PyTorch would be needed."""

import doctest
import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("executor", "hardware_profiles", "planner", "tui")


def _modules_with_examples() -> list[str]:
    sources = (path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py")))
    return [
        ".".join(("vramplan", *path.relative_to(REPOSITORY).with_suffix("").parts)).removesuffix(".__init__")
        for path in sources
        if ">>> " in path.read_text(encoding="utf-8")
    ]


@pytest.mark.parametrize("name", _modules_with_examples())
def test_the_examples_in_the_docstrings_hold(name: str) -> None:
    if name.startswith("vramplan.planner.trace"):
        pytest.importorskip("torch")
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.attempted > 0
    assert results.failed == 0
