"""A plan of two stages carried out: the first trained, its adapter merged into the base, the second trained on that.

    runs/x/plan.json, report.json, model     the plan; the first stage's report and adapter
    runs/x/merged, merged.json               the merged model, and which adapter is in it
    runs/x/stage-2/plan.json, report.json    the second stage as a plan on the merged model; its report

What is done is not done again: each step leaves a whole result or none, and the next run goes on behind the last whole
one.
"""

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vramplan.executor.finished import ADAPTER_WEIGHTS, finished_run
from vramplan.executor.here import device_here
from vramplan.executor.merge_cli import merge
from vramplan.executor.merge_request import BESIDE_THE_WEIGHTS_BYTES, check_disk
from vramplan.executor.packages import installed_packages
from vramplan.executor.preflight import preflight, preflight_text
from vramplan.executor.runs import read_run
from vramplan.planner.adapters.folder import read_config
from vramplan.planner.adapters.plan_files import read_plan, stage_folder, write_plan
from vramplan.planner.cli.render import show_json, tell
from vramplan.planner.dtypes import BYTES
from vramplan.planner.errors import ExitCode, PreflightError, UsageError
from vramplan.planner.plan import Plan, PlannedModel
from vramplan.planner.plan_hash import sha256_of
from vramplan.planner.stages import later_plan

MERGED, MERGED_FROM = "merged", "merged.json"
RunOne = Callable[[argparse.Namespace], tuple[ExitCode, dict[str, Any]]]


def run_stages(args: argparse.Namespace, plan: Plan, run_one: RunOne) -> ExitCode:
    """Run what is left of a plan's stages; the exit code is that of the stage it ended with.

    Args:
        run_one: runs one plan, ``args.plan``; its exit code, and what ``--json`` prints of it.

    Raises:
        PreflightError: a later stage could not start, or what lies at its place is of something else.
        RunError: a stage or the merge failed.
    """
    folder = args.plan.parent
    check_later(plan, folder, args.allow_drift)
    if args.start_over:
        _clear_merged(folder)
    told: list[dict[str, Any]] = []
    code = ExitCode.OK
    for number in range(1, 2 + len(plan.later_stages)):
        path = args.plan
        if number > 1:
            path = begin_stage(plan, folder, number)
        code = _run_stage(args, path, f"stage {number} of {1 + len(plan.later_stages)}", run_one, told)
        if code is not ExitCode.OK:
            break
    else:
        tell(f"the result of all stages is in {read_plan(path).recipe.output_dir}: vramplan chat {path.parent}")
    if args.json:
        show_json({"stages": told})
    return code


def _run_stage(
    args: argparse.Namespace, path: Path, name: str, run_one: RunOne, told: list[dict[str, Any]]
) -> ExitCode:
    here = read_run(path.parent)
    if here.status == "done" and not args.start_over:
        tell(f"{name}: {path} is finished")
        report = here.report.model_dump(mode="json") if here.report is not None else None
        told.append({"preflight": None, "report": report})
        return ExitCode.OK
    tell(f"{name}: {path}")
    resumes = args.resume and here.checkpoint_step is not None  # a stage that has not begun has nothing to go on from
    code, said = run_one(argparse.Namespace(**vars(args) | {"plan": path, "resume": resumes}))
    told.append(said)
    return code


def check_later(plan: Plan, folder: Path, allow: list[str]) -> None:
    """The later stages could start, before the first has cost anything: the base stands in for what is merged later.

    Args:
        folder: the plan's.
        allow: the differences a person accepts.

    Raises:
        PreflightError: one could not, or there is no room for the merged model.
    """
    for number in range(2, 2 + len(plan.later_stages)):
        later, place = later_plan(plan, number), stage_folder(folder, number)
        place.mkdir(exist_ok=True)
        found = preflight(
            later,
            place / "plan.json",
            device=device_here(later),
            packages=installed_packages(),
            allow=allow,
            verified=True,  # its own few steps come before it
            resumes=True,
        )
        if not found.go:
            tell(preflight_text(found))
            raise PreflightError(
                f"stage {number} could not start, so none was started", remedy="mend what blocks it, or plan again"
            )
        if not (folder / MERGED).exists():
            dtype = later.setup.precision.dtype
            check_disk(folder / MERGED, plan.model.total_params * BYTES[dtype] + BESIDE_THE_WEIGHTS_BYTES)


def begin_stage(plan: Plan, folder: Path, number: int) -> Path:
    """The plan file of a later stage, once the stage before is merged into its base.

    Raises:
        PreflightError: what lies at its place is of something else.
        RunError: the merge failed.
    """
    merged = _merge(plan, folder, number)
    path = stage_folder(folder, number) / "plan.json"
    wanted = later_plan(plan, number, _planned_model(plan, merged))
    if not path.exists() or read_plan(path).fingerprint != wanted.fingerprint:
        write_plan(wanted, path, overwrite=True)
    return path


def _merge(plan: Plan, folder: Path, number: int) -> Path:
    """The merged model of the stage before, made unless it is there."""
    found = finished_run(str(stage_folder(folder, number - 1)))
    place, note = folder / MERGED, folder / MERGED_FROM
    adapter = hashlib.sha256((found.result / ADAPTER_WEIGHTS).read_bytes()).hexdigest()
    origin = {"plan_fingerprint": plan.fingerprint, "adapter_sha256": adapter}
    if place.exists():
        if _read_note(note) != origin:
            raise PreflightError(
                f"{place} holds another model than this plan's first stage left",
                remedy=f"remove {place}, or begin again with --start-over",
            )
        return place
    note.write_text(json.dumps(origin) + "\n", encoding="utf-8")
    merge(found, place, plan.later_stages[number - 2].setup.precision.dtype)
    return place


def _planned_model(plan: Plan, merged: Path) -> PlannedModel:
    place = str(merged.absolute())
    changes: dict[str, Any] = {
        "repo_id": place,
        "revision": None,
        "path": place,
        "config_sha256": sha256_of(read_config(merged)),
        "provenance": plan.model.provenance.model_copy(update={"source": "folder", "location": place}),
    }
    return plan.model.model_copy(update=changes)


def _read_note(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _clear_merged(folder: Path) -> None:
    """Remove a merged model of ours.

    Raises:
        UsageError: what lies there was not written by a plan's stages.
    """
    if not (folder / MERGED).exists():
        return
    if _read_note(folder / MERGED_FROM) is None:
        raise UsageError(f"{folder / MERGED} was not made by a plan of two stages", remedy="move it away")
    shutil.rmtree(folder / MERGED)
