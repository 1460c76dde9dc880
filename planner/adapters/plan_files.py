"""Plan files: made from a candidate, written once, read back only when nothing in them has changed.

A plan file is JSON with two-space indents. ``plan_format`` comes first and is read first. ``file_sha256`` is the hash
of all other content, and the bytes of the file must be exactly what we would write, so an edit of one byte is refused.
"""

import glob
import json
import os
import re
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from pydantic import ValidationError

from vramplan.planner.candidate import Candidate
from vramplan.planner.errors import CorruptPlanError, PlanFormatError, UsageError
from vramplan.planner.explain_ranks import of_report
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.plan import PLAN_FORMAT, Plan, PlannedData, PlannedModel
from vramplan.planner.plan_hash import file_sha256_of, fingerprint_of, sha256_of
from vramplan.planner.report import RunReport
from vramplan.planner.training_setup import TrainingRecipe

STAGE = "stage-"
"""What the folder of a later stage begins with, inside the run's."""
MAX_PLAN_BYTES = 4 * 1024**2
"""A plan is some tens of KiB; anything near this is not one."""
MAX_REPORT_BYTES = 16 * 1024**2


def freeze_plan(
    candidate: Candidate, model: ModelSpec, recipe: TrainingRecipe, data: PlannedData | None = None
) -> Plan:
    """Turn a priced setup into a plan, stamped with this moment, this version and its fingerprint."""
    plan = Plan(
        tool_version=version("vramplan"),
        created_at=datetime.now(UTC).replace(microsecond=0),
        model=PlannedModel(
            repo_id=model.repo_id,
            revision=model.revision,
            path=model.provenance.location if model.provenance.source == "folder" else None,
            model_type=model.model_type,
            architecture=model.architecture,
            config_sha256=sha256_of(model.config),
            total_params=candidate.total_params,
            trainable_params=candidate.trainable_params,
            provenance=model.provenance,
        ),
        device=candidate.device,
        workload=candidate.workload,
        setup=candidate.setup,
        recipe=recipe,
        data=data,
        budget=candidate.budget,
        verdict=candidate.verdict,
        program=candidate.provenance,
        packages=candidate.provenance.versions,
        fingerprint="",
    )
    return plan.model_copy(update={"fingerprint": fingerprint_of(plan.model_dump(mode="json"))})


def write_plan(plan: Plan, path: Path, *, overwrite: bool = False) -> None:
    """Write a plan to a temporary file beside ``path``, then rename it into place.

    Raises:
        UsageError: the file exists and ``overwrite`` is False, or the place cannot be written.
    """
    if not overwrite and path.exists():
        raise UsageError(f"{path} exists already", remedy="choose another name with -o, or pass --force to replace it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _replace(path, _file_text(_content(plan)).encode())
    except OSError as error:
        raise UsageError(
            f"cannot write {path}: {error.strerror or error}", remedy="choose another place with -o"
        ) from error


def read_plan(path: Path) -> Plan:
    """Read a plan file and check both of its hashes.

    Raises:
        UsageError: there is no such file, or it cannot be read.
        PlanFormatError: it was written in another plan format.
        CorruptPlanError: it is not a plan, or it was edited or damaged since it was written.
    """
    try:
        return _checked(_read_bytes(path, MAX_PLAN_BYTES), path)
    except RecursionError:  # writing it again goes deeper than reading it
        _refuse(path, "is nested too deep to be a plan")


def _checked(raw: bytes, path: Path) -> Plan:
    content = _parse(raw, path)
    _check_format(content, path)
    if content.get("file_sha256") != file_sha256_of(content):
        _refuse(path, "was edited or damaged: its content does not match its file_sha256")
    if raw != _file_text(content).encode():
        _refuse(path, "was edited or damaged: its bytes are not as they were written")
    try:
        plan = Plan.model_validate_json(json.dumps({k: v for k, v in content.items() if k != "file_sha256"}))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        _refuse(path, f"does not hold a plan: {where}: {first['msg']}")
    if plan.fingerprint != fingerprint_of(content):
        _refuse(path, "was edited or damaged: its fingerprint does not match")
    return plan


def read_report(path: Path) -> RunReport:
    """Read the report a run left.

    Raises:
        UsageError: there is no such file, it cannot be read, or it is not a report.
    """
    raw = _read_bytes(path, MAX_REPORT_BYTES)
    try:
        return RunReport.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise UsageError(
            f"{path} is not a run report: {where}: {first['msg']}", remedy="a run writes report.json beside its plan"
        ) from error


def read_reports(path: Path) -> RunReport:
    """A report with those of the other ranks, which exported scripts write beside it: ``report-rank1.json`` ...

    Raises:
        UsageError: one of them cannot be read, or is not a report.
    """
    report = read_report(path)
    beside = {int(found["rank"]): each for each in path.parent.glob(f"{glob.escape(path.stem)}-rank*{path.suffix}")
              if (found := _OF_A_RANK.search(each.stem))}  # fmt: skip
    if report.ranks or not beside:
        return report
    others = {rank: read_report(each) for rank, each in sorted(beside.items())}
    ours = {rank: each for rank, each in others.items() if each.plan_fingerprint == report.plan_fingerprint}
    ranks = (of_report(report, 0), *(of_report(each, rank) for rank, each in ours.items()))
    return report.model_copy(update={"ranks": ranks})


_OF_A_RANK = re.compile(r"-rank(?P<rank>[0-9]{1,6})$")


def _content(plan: Plan) -> dict[str, Any]:
    content = plan.model_dump(mode="json")
    first = {"plan_format": content["plan_format"], "file_sha256": file_sha256_of(content)}
    return first | content


def _file_text(content: dict[str, Any]) -> str:
    # ASCII escapes keep a terminal safe from whatever a name in a plan may hold.
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def _replace(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name[:64]}.{os.getpid()}.part")
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read_bytes(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            raw = file.read(limit + 1)
    except FileNotFoundError as error:
        raise UsageError(f"{path} does not exist", remedy="make a plan with: vramplan plan MODEL -o FILE") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read {path}: {reason}") from error
    if len(raw) > limit:
        _refuse(path, f"is larger than {limit // 1024**2} MiB, so it is not one of ours")
    return raw


def _parse(raw: bytes, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(raw.decode(), parse_constant=_no_constant)
    except ValueError as error:
        _refuse(path, f"is not JSON: {error}")
    if not isinstance(content, dict) or "plan_format" not in content:
        _refuse(path, "is not a plan: it has no plan_format")
    return content


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _check_format(content: dict[str, Any], path: Path) -> None:
    found = content["plan_format"]
    if found != PLAN_FORMAT or isinstance(found, bool):
        raise PlanFormatError(
            f"{path} is written in plan format {str(found)[:20]}; this vramplan reads format {PLAN_FORMAT}",
            remedy="make the plan again with: vramplan plan MODEL, or use the vramplan that wrote it",
        )


def _refuse(path: Path, why: str) -> NoReturn:
    raise CorruptPlanError(f"{path} {why}", remedy="make the plan again with: vramplan plan MODEL")


def stage_folder(run_folder: Path, number: int) -> Path:
    """Where a stage's plan, events and report lie: the first's in the run folder itself.

    >>> str(stage_folder(Path("runs/llama"), 2))
    'runs/llama/stage-2'
    """
    return run_folder if number == 1 else run_folder / f"{STAGE}{number}"
