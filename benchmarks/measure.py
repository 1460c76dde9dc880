"""Real steps at real sizes beside their price: every cell of cases/measure.toml, each in a fresh process.

    python benchmarks/measure.py [--device auto|cpu] [--seconds 570] [--cells N] [--out FILE]

Weights are random and built on the device, rows are random and full, the loop is the executor's. While one cell is
measured, the next ones are priced on the processor with programs traced for the libraries installed here, beside the
shipped ones. The most informative cells come first; it stops starting cells when the time is up, and goes on where it
stopped: a cell measured with these versions on this device is kept. Results go to results/<device>-<date>.json.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vramplan.executor.environment import ALWAYS
from vramplan.executor.packages import installed_packages
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.device import Device

HERE = Path(__file__).parent
CASES = HERE / "cases" / "measure.toml"
CELL = HERE / "measured_cell.py"
LIMIT_SECONDS = 240.0
"""One process of one cell; a hang must not cost the others."""


def name_of(case: dict[str, Any]) -> str:
    """``Qwen/Qwen2.5-0.5B: method full, micro_batch 4``"""
    return f"{case['model']}: " + ", ".join(f"{name} {value}" for name, value in case["options"].items())


def start(goal: str, case: dict[str, Any], device: Device, *, seconds: float) -> dict[str, Any]:
    """Run one process of a cell and read what it prints."""
    described = json.dumps({**case, "device": device.model_dump(mode="json")})
    environment = os.environ | ALWAYS | {"HF_HUB_OFFLINE": "1"}
    if goal == "predict":
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    else:
        alloc_conf = case["options"].get("alloc_conf", "expandable_segments:True")
        environment |= {"PYTORCH_ALLOC_CONF": alloc_conf, "PYTORCH_CUDA_ALLOC_CONF": alloc_conf}
    command = [sys.executable, str(CELL), goal, described]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {"failure": f"not done within {seconds:.0f} seconds"}
    except (IndexError, ValueError):
        said = (done.stderr.strip().splitlines() or ["no word"])[-1]
        return {"failure": f"exit code {done.returncode}: {said}"}


def run(cases: list[dict[str, Any]], device: Device, out: Path, seconds: float) -> int:
    """Measure every case that has no result yet, until the time is up; results are written as they come."""
    rows = json.loads(out.read_text()) if out.exists() else {}
    versions = installed_packages()
    todo = [case for case in cases if not _is_done(rows.get(name_of(case)), versions)]
    end = time.monotonic() + seconds
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 2) - 2)) as pool:
        prices: dict[str, Future[dict[str, Any]]] = {
            name_of(case): pool.submit(start, "predict", case, device, seconds=LIMIT_SECONDS) for case in todo
        }
        for case in todo:
            if time.monotonic() >= end:
                break
            name = name_of(case)
            measured = start("measure", case, device, seconds=min(LIMIT_SECONDS, max(30.0, end - time.monotonic())))
            row = {**case, "versions": versions, "measured": measured}
            rows[name] = row | {"predicted": prices[name].result()}
            _write(out, rows)
            print(name, "|", verdict(rows[name]), flush=True)
        for future in prices.values():
            future.cancel()
    left = sum(not _is_done(rows.get(name_of(case)), versions) for case in cases)
    print(f"{len(rows)} cells in {out}, {left} left", flush=True)
    return 0 if rows else 1


def _is_done(row: dict[str, Any] | None, versions: dict[str, str]) -> bool:
    """Measured with these versions, or found too large; a process that was cut short, or died, is tried again."""
    if row is None or row["versions"] != versions:
        return False
    measured = row["measured"]
    return bool(measured.get("phases")) or str(measured.get("failure")).startswith("out of memory")


def verdict(row: dict[str, Any]) -> str:
    """Peak allocated, measured over predicted, by each program."""
    measured, predicted = row["measured"], row["predicted"]
    peaks = [phase["allocated_bytes"] for phase in measured.get("phases", ()) if phase["allocated_bytes"]]
    if measured.get("failure") or not peaks:
        return f"failed: {measured.get('failure') or 'nothing measured'}"
    words = [f"peak {max(peaks):,}"]
    for origin in ("shipped", "traced"):
        price = predicted.get(origin, predicted)
        expected = price.get("peak_allocated_bytes")
        words.append(f"{origin} {max(peaks) / expected - 1:+.3%}" if expected else f"{origin}: {price.get('failure')}")
    return ", ".join(words)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=570.0)
    parser.add_argument("--cells", type=int, default=None)
    parser.add_argument("--out", type=Path, default=None)
    args = parser.parse_args()
    device, note = resolve_device(args.device, memory_bytes=None, reserve_bytes=0)
    if device is None:
        print(f"no device to measure on: {note}", file=sys.stderr)
        return 2
    grid = tomllib.loads(CASES.read_text())["cpu" if device.kind == "cpu" else "cuda"]
    slug = "cpu" if device.kind == "cpu" else re.sub(r"[^a-z0-9]+", "-", device.name.lower())
    out = args.out or HERE / "results" / f"{slug}-{datetime.now(UTC):%Y-%m-%d}.json"
    return run(grid[: args.cells], device, out, args.seconds)


def _write(out: Path, rows: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_suffix(".part")
    part.write_text(json.dumps(rows, indent=1) + "\n")
    part.replace(out)


if __name__ == "__main__":
    sys.exit(main())
