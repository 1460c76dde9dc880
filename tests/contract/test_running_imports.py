"""Pricing and planning a real catalogue model load neither PyTorch nor the app's library, not even when they run."""

import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "textual", "numpy"}
CODE = """
import sys
from vramplan.tui.cli import main
code = main(sys.argv[1:])
print(*sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("command", ["estimate", "plan", "recommend", "trace"])
def test_a_command_that_prices_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    arguments = [command, "HuggingFaceTB/SmolLM2-135M", "--method", "lora", "--device", "RTX 4090"]
    arguments += ["--gradient-checkpointing", "--json"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CODE, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    loaded = set(done.stderr.splitlines()[-1].split())
    assert not loaded & HEAVY
    assert "vramplan" in loaded
