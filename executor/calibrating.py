"""Evidence for calibration (planner/calibration.py): reports of runs, and a fixed set of short ones."""

import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vramplan.executor.environment import ALWAYS
from vramplan.executor.evidence import REPORT
from vramplan.planner.adapters.calibration_files import remember
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.calibration import Observation, observe
from vramplan.planner.device import Device
from vramplan.planner.errors import UsageError, VramplanError
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.outside import PRIOR
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport

CELLS = Path(__file__).with_name("calibration_cells.toml")
CELL = (sys.executable, "-P", "-m", "vramplan.executor.cell")
LIMIT_SECONDS = 240.0
"""One process of one cell; a hang must not cost the others."""


def observe_run(path: Path) -> Observation | None:
    """What a run folder, its plan or its report shows; None where it tells nothing about a GPU.

    Raises:
        UsageError: there is no plan beside a report there.
        PlanError: the plan cannot be trusted.
    """
    folder = path if path.is_dir() else path.parent
    report = path if path.name not in ("plan.json", folder.name) and path.is_file() else folder / REPORT
    if not (folder / "plan.json").is_file():
        raise UsageError(f"no plan.json in {folder}", remedy="give a run's folder, or its report beside its plan")
    return observe_report(read_plan(folder / "plan.json"), read_report(report))


def remember_run(plan: Plan, run_folder: Path) -> bool:
    """Keep what a finished run on a GPU showed; a data folder that cannot be written costs the run nothing."""
    try:
        found = observe_report(plan, read_report(run_folder / REPORT))
        return found is not None and remember([found]) > 0
    except (OSError, UsageError):
        return False


def observe_report(plan: Plan, report: RunReport) -> Observation | None:
    """What a report shows, the time of its steps beside what the time model alone would have said."""
    found = observe(plan, report)
    if found is None or report.ladder or plan.device is None or not report.tokens_per_second:
        return found
    try:
        model = resolve_model(plan.model.path or plan.model.repo_id, revision=plan.model.revision, online=False)
        priced = estimate(model, plan.workload, plan.setup, plan.device, figures=lambda _: PRIOR, with_tensors=False)
    except VramplanError:
        return found
    if priced.time is None:
        return found
    ratio = priced.time.tokens_per_second.typical / report.tokens_per_second
    return found.model_copy(update={"step_time_ratio": ratio})


def cells(path: Path = CELLS) -> list[dict[str, Any]]:
    """The fixed set, the most telling first."""
    return list(tomllib.loads(path.read_text(encoding="utf-8"))["cell"])


def name_of(cell: Mapping[str, Any]) -> str:
    """``Qwen/Qwen2.5-0.5B: method lora, micro batch 4``"""
    options = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in cell["options"].items())
    return f"{cell['model']}: {options}"


def measure(
    device: Device, todo: Sequence[Mapping[str, Any]], seconds: float, command: Sequence[str] = CELL
) -> Iterator[tuple[str, Observation | str]]:
    """Each cell's name, and what it showed or why it showed nothing; none is started once the time is up."""
    end = time.monotonic() + seconds
    for cell in todo:
        left = end - time.monotonic()
        if left <= 0:
            return
        yield name_of(cell), _measured(device, cell, min(LIMIT_SECONDS, max(30.0, left)), command)


def _measured(device: Device, cell: Mapping[str, Any], seconds: float, command: Sequence[str]) -> Observation | str:
    alloc_conf = cell["options"].get("alloc_conf", "expandable_segments:True")
    environment = os.environ | ALWAYS | {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": device.uuid or "0"}
    environment |= {"PYTORCH_ALLOC_CONF": alloc_conf, "PYTORCH_CUDA_ALLOC_CONF": alloc_conf}
    described = json.dumps({**cell, "device": device.model_dump(mode="json")})
    try:
        done = subprocess.run(
            [*command, described], capture_output=True, text=True, env=environment, timeout=seconds, check=False
        )
        told = json.loads(done.stdout.splitlines()[-1])
        plan = Plan.model_validate_json(json.dumps(told["plan"]))
        report = RunReport.model_validate_json(json.dumps(told["report"]))
    except subprocess.TimeoutExpired:
        return f"not done within {seconds:.0f} seconds"
    except (IndexError, ValueError, KeyError):
        return (done.stderr.strip().splitlines() or ["no word"])[-1]
    return report.failure or observe_report(plan, report) or "nothing was measured"
