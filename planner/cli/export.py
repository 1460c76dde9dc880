"""``vramplan export``: a plan as files for something else that trains, or that starts training."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.cli.parsing import one_of
from vramplan.planner.cli.render import show, show_json, table, tell, terminal_width
from vramplan.planner.errors import ExitCode, UsageError
from vramplan.planner.export.engine import Files, Source, export
from vramplan.planner.export.engines import ENGINES
from vramplan.planner.plan import Plan

FIRST_ROW_CHARACTERS = 2**24
"""A longer first line is no row."""


def add_parser(subparsers: Any) -> None:
    """Register ``export``."""
    parser = subparsers.add_parser(
        "export",
        description="Write a plan as files for something else. What cannot be said there is refused, never dropped.",
    )
    parser.add_argument("plan", metavar="PLAN", help="a plan file")
    parser.add_argument("--to", metavar="ENGINE", type=one_of(*ENGINES), required=True, help=", ".join(ENGINES))
    parser.add_argument("-o", "--output", metavar="DIR", help="the folder for the files; export-ENGINE beside the plan")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--fields", action="store_true", help="write nothing: show where each field of a plan goes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> ExitCode:
    """Export, or show what the engine is told."""
    engine = ENGINES[args.to]
    plan_path = Path(args.plan)
    plan = read_plan(plan_path)
    if args.fields:
        if args.json:
            show_json({"engine": engine.name, "fields": dict(engine.tells)})
        else:
            rows = [["field", f"in {engine.name}"], *([field, place] for field, place in engine.tells.items())]
            show(table(rows, "<<", width=terminal_width()))
        return ExitCode.OK
    files = export(engine, Source(at_absolute_paths(plan), row_kind(plan)))
    folder = Path(args.output) if args.output else plan_path.with_name(f"export-{engine.name}")
    written = write_files(files, folder, overwrite=args.force)
    if args.json:
        show_json({"engine": engine.name, "folder": str(folder), "files": [str(path) for path in written]})
    else:
        tell(f"{engine.summary}; the plan's own run is: vramplan run {plan_path}")
        show(*(str(path) for path in written))
    return ExitCode.OK


def row_kind(plan: Plan) -> str | None:
    """What the rows of the plan's training file are, told from the first; None where the file is not here or has none
    of the columns that are known.

    The run itself checks every row; an export needs the columns' names alone.
    """
    path = plan.data.path if plan.data else None
    if path is None:
        return None
    try:
        with Path(path).open(encoding="utf-8-sig") as file:
            lines = iter(lambda: file.readline(FIRST_ROW_CHARACTERS), "")
            row = json.loads(next((line for line in lines if line.strip()), "{}"))
    except (OSError, ValueError, RecursionError):
        return None
    kinds = {"messages": ("messages",), "prompt-completion": ("prompt", "completion"), "text": ("text",)}
    found = [kind for kind, columns in kinds.items() if isinstance(row, dict) and all(name in row for name in columns)]
    return found[0] if len(found) == 1 else None


def at_absolute_paths(plan: Plan) -> Plan:
    """The plan with its local paths made absolute: exported files are run from another folder than the plan was."""

    def absolute(path: str | None) -> str | None:
        return path and os.path.abspath(path)

    recipe = {
        name: absolute(getattr(plan.recipe, name)) for name in ("data", "eval_data", "chat_template", "output_dir")
    }
    changes = {
        "model": plan.model.model_copy(update={"path": absolute(plan.model.path)}),
        "recipe": plan.recipe.model_copy(update=recipe),
        "data": plan.data and plan.data.model_copy(update={"path": absolute(plan.data.path)}),
    }
    return plan.model_copy(update=changes)


def write_files(files: Files, folder: Path, *, overwrite: bool) -> list[Path]:
    """Write an export into a folder; scripts may be executed.

    Raises:
        UsageError: one of them is there already and ``overwrite`` is False, or the place cannot be written.
    """
    paths = {folder / name: text for name, text in files.items()}
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise UsageError(f"{taken[0]} exists already", remedy="choose another folder with -o, or pass --force")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            part = path.with_name(f".{path.name}.{os.getpid()}.part")
            try:
                part.write_text(text, encoding="utf-8")
                if text.startswith("#!"):
                    part.chmod(0o755)
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)  # there only where it could not be written whole
    except OSError as error:
        raise UsageError(
            f"cannot write {folder}: {error.strerror or error}", remedy="choose another place with -o"
        ) from error
    return list(paths)
