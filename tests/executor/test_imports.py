"""The parent side of a run stays light: no training library is imported to check, launch or watch one."""

import subprocess
import sys

MODULES = ("cli", "launcher", "preflight", "events", "progress", "here", "evidence", "worker")
HEAVY = ("torch", "transformers", "peft", "trl", "bitsandbytes", "accelerate", "datasets", "textual")


def test_nothing_heavy_is_imported_before_the_worker_trains() -> None:
    imports = "; ".join(f"import vramplan.executor.{module}" for module in MODULES)
    code = f"import sys; {imports}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
