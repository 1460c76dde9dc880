"""Starting a command loads neither PyTorch nor the app's library: proved on a real interpreter, not by reading."""

import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "textual", "numpy")
LOADED = "import sys; print(*sorted({name.split('.')[0] for name in sys.modules}))"


def _command_modules() -> list[str]:
    paths = [*(REPOSITORY / "planner" / "cli").glob("*.py"), *(REPOSITORY / "executor").glob("*cli.py")]
    names = [".".join(("vramplan", *path.relative_to(REPOSITORY).with_suffix("").parts)) for path in sorted(paths)]
    return [name.removesuffix(".__init__") for name in names]


def _loaded_after(code: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", f"{code}\n{LOADED}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split()) & set(HEAVY)


@pytest.mark.parametrize("module", _command_modules())
def test_a_command_module_imports_nothing_heavy(module: str) -> None:
    assert _loaded_after(f"import {module}") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["estimate", "--help"], ["demo", "--help"]])
def test_asking_for_help_loads_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import contextlib, io\n"
        "from vramplan.tui.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({arguments!r})"
    )
    assert _loaded_after(code) == set()
