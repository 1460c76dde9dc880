"""``vramplan plan --sweep``: a plan for each of several ranks and alphas, and the file that runs them in a row."""

import argparse
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.plan_files import write_plan
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.estimate import verdict_code
from vramplan.planner.cli.plan import frozen
from vramplan.planner.cli.render import paragraph, show, show_json, table, terminal_width
from vramplan.planner.cli.subject import Subject
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.methods import Lora, Qlora
from vramplan.planner.resolve import slug
from vramplan.planner.sweep import SWEEP_FILE, Sweep, points
from vramplan.planner.units import format_bytes


def run_sweep(args: argparse.Namespace, given: dict[str, Any], subject: Subject) -> ExitCode:
    """Price, freeze and write every point; the exit code is the worst verdict.

    Raises:
        UsageError: the method has no rank, or there is a sweep in that folder.
    """
    method = subjects.complete(subject, given).setup.method
    if not isinstance(method, Lora | Qlora):
        raise UsageError(f"--sweep tries ranks, and --method {method.kind} has none", remedy="use --method lora")
    folder = Path(args.output) if args.output else Path("runs", f"{slug(subject.model, method)}-sweep")
    if (folder / SWEEP_FILE).exists() and not args.force:
        raise UsageError(
            f"{folder / SWEEP_FILE} exists", remedy="choose another folder with -o, or replace it: --force"
        )
    priced: list[tuple[str, Candidate]] = []
    for point in points(method.r, method.lora_alpha):
        resolved = subjects.complete(subject, given | {"rank": point.rank, "alpha": point.alpha})
        candidate = subjects.price(subject, resolved)
        path = folder / point.name / "plan.json"
        write_plan(frozen(subject, resolved, candidate, path, output_given=False), path, overwrite=args.force)
        priced.append((str(path.relative_to(folder)), candidate))
    sweep = Sweep(plans=tuple(path for path, _ in priced))
    (folder / SWEEP_FILE).write_text(sweep.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if args.json:
        show_json({"path": str(folder / SWEEP_FILE)} | sweep.model_dump(mode="json"))
    else:
        show(_text(folder, priced, has_data=subject.data is not None))
    return max(verdict_code([candidate], device_named=subject.device_named) for _, candidate in priced)


def _text(folder: Path, priced: list[tuple[str, Candidate]], *, has_data: bool) -> str:
    width = terminal_width()
    rows = [["plan", "trained parameters", "up to", "verdict"]]
    for path, candidate in priced:
        high = format_bytes(candidate.budget.high_process_bytes)
        rows.append([path, f"{candidate.trainable_params:,}", high, candidate.verdict or "none"])
    after = f"run them in a row: vramplan run {folder / SWEEP_FILE}"
    if not has_data:
        after = "they name no data, so they cannot be run: plan again with --data FILE"
    return "\n".join([f"wrote {folder / SWEEP_FILE}", table(rows, "<>><", width=width), paragraph(after, width=width)])
