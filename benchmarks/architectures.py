"""Which architectures are priced, found out by pricing them: the smallest catalogue model of every model_type.

    python -m benchmarks.architectures [--results FILE] [--page FILE] [--only TYPE ...]

Resumable: a type already among the results for the same library versions is not built again. Each program is traced
along CUDA's kernels with LoRA and checkpointing, folded, and proved at sizes it was not made from. The page is
docs/architectures.md.
"""

import argparse
import json
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.planner.adapters import catalogue
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.errors import VramplanError
from vramplan.planner.memory.recurrence import LOOPED
from vramplan.planner.memory.structure import has_named_sizes, program_key
from vramplan.planner.resolve import resolve

FOLDER = Path(__file__).resolve().parents[1] / "docs"
SECONDS = 360
SHORT = 64
"""Tokens of a row for a model that loops over them, where a trace of more took too long."""
HEAD = """# Architectures

Made by `python -m benchmarks.architectures` with {versions}. One row a model type of the catalogue, tried
on its smallest model: LoRA with the default targets, gradient checkpointing, one row of 1,024 tokens (less where the
model ends earlier), along CUDA's kernels. *exact*: the program, made from traces at two sizes, gave every phase's peak
of a third trace, at other sizes and a greater depth, to the byte. A model that loops over its tokens has a program for
each length, which takes the longer to trace the longer it is: *exact at 64 tokens* where 1,024 took too long. *Sizes*:
`any` means one program for every size of the family, `its own` a program for each model.

| type | example | class loaded | task | sizes | priced |
|---|---|---|---|---|---|
"""


class Row(NamedTuple):
    """What came of one type."""

    model_type: str
    example: str
    architecture: str
    task: str
    named_sizes: bool
    outcome: str
    """``exact``, or why not."""
    seconds: float
    versions: dict[str, str]


def examples() -> dict[str, str]:
    """model_type -> its smallest model in the catalogue, an unquantised one where there is one."""
    chosen: dict[str, tuple[bool, int, str]] = {}
    for record in catalogue.records():
        entry = next(each for each in catalogue.entries() if each.id == record["facts"]["id"])
        quantised = bool(record["config"].get("quantization_config"))
        candidate = (quantised, entry.params, entry.id)
        chosen[entry.model_type] = min(candidate, chosen.get(entry.model_type, candidate))
    return {model_type: example for model_type, (_, _, example) in sorted(chosen.items())}


def try_type(model_type: str, example: str) -> Row:
    """Build the program of a type's example; whatever goes wrong is the outcome."""
    row = _try(model_type, example)
    if row.outcome.startswith(TimeoutError.__name__) and model_type in LOOPED:
        short = _try(model_type, example, sequence_length=SHORT)
        if short.outcome == "exact":
            return short._replace(outcome=f"exact at {SHORT} tokens")
    return row


def _try(model_type: str, example: str, **options: Any) -> Row:
    from vramplan.planner.trace.build import build_program, traced_versions

    started = time.monotonic()
    architecture, task, named = "", "", False
    signal.alarm(SECONDS)
    try:
        model = model_for_task(resolve_model(example, online=False))
        model = model.model_copy(update={"quantization": None})
        resolved = resolve({"method": "lora", **options}, model, None)
        architecture, task, named = model.architecture, resolved.workload.task, has_named_sizes(model)
        build_program(program_key(model, resolved.workload, resolved.setup, "cuda", None))
        outcome = "exact"
    except VramplanError as refused:
        outcome = f"refused: {refused.message}"
    except Exception as problem:  # what a model's code raises on a trace is the answer
        frame = traceback.extract_tb(problem.__traceback__)[-1]
        outcome = f"{type(problem).__name__}: {' '.join(str(problem).split())[:200]} ({Path(frame.filename).name})"
    finally:
        signal.alarm(0)
    seconds = round(time.monotonic() - started, 1)
    return Row(model_type, example, architecture, task, named, outcome, seconds, traced_versions())


def page(rows: list[Row], untried: list[str]) -> str:
    """The table, as Markdown, and the types that have no row."""
    names = ("torch", "transformers", "peft", "trl")
    versions = ", ".join(f"{name} {rows[0].versions[name].partition('+')[0]}" for name in names)
    lines = [
        f"| {row.model_type} | {row.example} | {row.architecture or '-'} | {row.task or '-'} | "
        f"{'any' if row.named_sizes else 'its own'} | {row.outcome.replace('|', '/')} |"
        for row in rows
    ]
    exact = sum(row.outcome.startswith("exact") for row in rows)
    rest = f"Not tried with these versions: {', '.join(untried)}.\n" if untried else ""
    return (
        HEAD.format(versions=versions) + "\n".join(lines) + f"\n\nExact: {exact} of {len(rows)}. {rest}".rstrip() + "\n"
    )


def main(arguments: list[str]) -> int:
    """Try what was not tried, write the page."""
    from vramplan.planner.trace.build import traced_versions

    parser = argparse.ArgumentParser(description="Try every architecture of the catalogue.")
    parser.add_argument("--results", type=Path, default=Path("architectures.jsonl"))
    parser.add_argument("--page", type=Path, default=FOLDER / "architectures.md")
    parser.add_argument("--only", nargs="*", help="try these types again")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGALRM, _too_long)
    known = {row.model_type: row for row in _read(options.results) if row.versions == traced_versions()}
    found = examples()
    for model_type, example in found.items():
        if model_type in (options.only if options.only is not None else set(found) - set(known)):
            known[model_type] = row = try_type(model_type, example)
            print(f"{row.model_type}: {row.outcome} ({row.seconds} s)", file=sys.stderr, flush=True)
            with options.results.open("a") as file:
                file.write(json.dumps(row._asdict()) + "\n")
    options.page.write_text(
        page([known[name] for name in found if name in known], [name for name in found if name not in known])
    )
    return 0


def _too_long(*_: Any) -> None:
    raise TimeoutError(f"not traced within {SECONDS} seconds")


def _read(path: Path) -> list[Row]:
    return [Row(**json.loads(line)) for line in path.read_text().splitlines()] if path.exists() else []


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
