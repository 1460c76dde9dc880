"""The drawn house is the built one: docs/architecture.md against the imports in the code, and a core without I/O."""

import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("vramplan.executor", "vramplan.hardware_profiles", "vramplan.planner", "vramplan.tui")
ROOMS = (
    "executor",
    "hardware_profiles",
    "planner",
    "planner.adapters",
    "planner.catalogue",
    "planner.cli",
    "planner.estimate",
    "planner.memory",
    "planner.programs",
    "planner.trace",
    "tui",
)
CORE = {"planner", "planner.memory", "planner.programs"}
OUTSIDE_THE_CORE = {
    "asyncio", "huggingface_hub", "importlib", "os", "pathlib", "platformdirs", "psutil", "pynvml", "shutil", "socket",
    "subprocess", "sys", "tempfile", "time", "urllib",
}  # fmt: skip


def _room(module: str) -> str:
    name = module.removeprefix("vramplan.")
    return max((room for room in ROOMS if name == room or name.startswith(f"{room}.")), key=len)


@pytest.fixture(scope="module")
def imports() -> set[tuple[str, str]]:
    """(importer, imported) over the whole code, imports inside functions included."""
    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)
    ours = [module for module in graph.modules if module.startswith("vramplan.")]
    return {(module, found) for module in ours for found in graph.find_modules_directly_imported_by(module)}


def test_the_drawn_imports_are_the_real_ones(imports: set[tuple[str, str]]) -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- imports -->\s+```text\n(.*?)```", page, re.DOTALL)
    assert block is not None
    drawn = {
        (importer.strip(), imported)
        for importer, _, line in (row.partition("->") for row in block.group(1).splitlines())
        for imported in line.split()
    }
    real = {(_room(a), _room(b)) for a, b in imports if b.startswith("vramplan.")}
    assert {pair for pair in real if pair[0] != pair[1]} == drawn


def test_no_core_module_does_io(imports: set[tuple[str, str]]) -> None:
    assert {(a, b) for a, b in imports if _room(a) in CORE and b in OUTSIDE_THE_CORE} == set()


def test_no_core_module_imports_an_adapter_or_a_command(imports: set[tuple[str, str]]) -> None:
    outer = {"planner.adapters", "planner.cli", "planner.estimate", "planner.trace", "executor", "tui"}
    ours = {(a, b) for a, b in imports if b.startswith("vramplan.")}
    assert {(a, b) for a, b in ours if _room(a) in CORE and _room(b) in outer} == set()


def test_every_file_the_map_names_exists() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:planner|executor|tui|hardware_profiles|tests|docs|benchmarks|\.ci)/[\w./-]*)`", page)
    assert named
    assert [name for name in named if not (REPOSITORY / name).exists()] == []
