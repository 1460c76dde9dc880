"""What pip installs is the whole program: every package folder, every data file, and little else."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
FOLDERS = ("executor", "hardware_profiles", "planner", "tui")
LARGEST_WHEEL_BYTES = 15 * 1000**2
LONGEST_FILE_LINES = 320


def _package_files() -> list[Path]:
    return [
        path.relative_to(REPOSITORY)
        for folder in FOLDERS
        for path in sorted((REPOSITORY / folder).rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel, built from a copy so that the checkout gains no build folder."""
    pytest.importorskip("setuptools", minversion="77")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for folder in FOLDERS:
        shutil.copytree(REPOSITORY / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    built = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*command, "--wheel-dir", str(built), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return zipfile.ZipFile(next(built.glob("*.whl")))


def test_every_folder_with_python_files_is_a_listed_package() -> None:
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    present = {".".join(("vramplan", *path.parent.parts)) for path in _package_files() if path.suffix == ".py"}
    assert sorted(present) == sorted(settings["tool"]["setuptools"]["packages"])


def test_every_package_is_marked_as_one() -> None:
    folders = {path.parent for path in _package_files() if path.suffix == ".py"}
    assert [str(folder) for folder in sorted(folders) if not (REPOSITORY / folder / "__init__.py").is_file()] == []


def test_the_wheel_holds_every_module_and_every_data_file(wheel: zipfile.ZipFile) -> None:
    wanted = {f"vramplan/{path.as_posix()}" for path in _package_files()}
    assert wanted - set(wheel.namelist()) == set()


def test_the_wheel_holds_nothing_but_the_package_and_its_metadata(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {"vramplan", "vramplan-0.1.0.dist-info"}


def test_the_wheel_carries_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    entry_points = next(name for name in names if name.endswith("entry_points.txt"))
    assert "vramplan = vramplan.tui.cli:main" in wheel.read(entry_points).decode()


def test_the_wheel_is_small(wheel: zipfile.ZipFile) -> None:
    assert sum(entry.compress_size for entry in wheel.infolist()) < LARGEST_WHEEL_BYTES


def test_no_module_outgrows_one_idea() -> None:
    long = {
        str(path): lines
        for path in _package_files()
        if path.suffix == ".py"
        and (lines := len((REPOSITORY / path).read_text(encoding="utf-8").splitlines())) > LONGEST_FILE_LINES
    }
    assert long == {}
