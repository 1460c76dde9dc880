"""Fuzz readers for a while each, and keep count; needs atheris.

    python -m fuzz.campaign [TARGET ...] [--minutes 30]

What a target was fuzzed for adds up over calls, in ``benchmarks/results/fuzzing.json``, until it has its minutes; a
finding ends a target, and stays in ``crash-*``. Each stretch is a process of its own: libFuzzer ends with one.
"""

import argparse
import fcntl
import json
import re
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fuzz.targets import TARGETS

RESULT = Path(__file__).parents[1] / "benchmarks" / "results" / "fuzzing.json"
STRETCH_SECONDS = 300
MEMORY_MB = 4096


def main() -> int:
    """Fuzz every target named, one after another; 1 where anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", choices=list(TARGETS), default=list(TARGETS), metavar="TARGET")
    parser.add_argument("--minutes", type=float, default=30, help="of each target, on the clock")
    args = parser.parse_args()
    found = 0
    for target in args.targets:
        so_far = _read().get(target, {"seconds": 0.0, "cpu_seconds": 0.0, "inputs": 0, "findings": 0})
        while not so_far["findings"] and so_far["seconds"] < 60 * args.minutes:
            left = 60 * args.minutes - so_far["seconds"]
            so_far = _add(target, _stretch(target, max(1, round(min(STRETCH_SECONDS, left)))))
            print(target, so_far, flush=True)  # noqa: T201
        found += so_far["findings"]
    return 1 if found else 0


def _stretch(target: str, seconds: int) -> dict[str, Any]:
    """One process of fuzzing."""
    command = [sys.executable, "-m", "fuzz.run", target, f"-max_total_time={seconds}", "-print_final_stats=1"]
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [*command, f"-rss_limit_mb={MEMORY_MB}"], capture_output=True, text=True, errors="replace", check=False
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    inputs = re.search(r"number_of_executed_units:\s+(\d+)", ended.stderr)
    if ended.returncode:
        print(ended.stderr[-5000:], file=sys.stderr)  # noqa: T201
    return {
        "seconds": time.monotonic() - begun,
        "cpu_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "inputs": int(inputs[1]) if inputs else 0,
        "findings": int(ended.returncode != 0),
    }


def _read() -> dict[str, dict[str, Any]]:
    return json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}


def _add(target: str, stretch: dict[str, Any]) -> dict[str, Any]:
    """The target's sums, this stretch among them; several campaigns may write at once."""
    with RESULT.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = _read()
        before = rows.get(target, {})
        sums = {name: round(before.get(name, 0) + value, 1) for name, value in stretch.items()}
        rows[target] = sums | {"ended": datetime.now(UTC).date().isoformat()}
        RESULT.write_text(json.dumps(rows, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    RESULT.with_suffix(".lock").unlink(missing_ok=True)
    return rows[target]


if __name__ == "__main__":
    raise SystemExit(main())
