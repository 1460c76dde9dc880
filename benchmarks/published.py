"""Price every published run of cases/published.jsonl and set the price beside what its authors measured.

    python benchmarks/published.py

Writes results/published.json and the tables in README.md. Nothing is fitted to a row: a command goes through the
parser and the functions ``vramplan estimate`` itself uses.
"""

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

from emptied import reserved_from_empty
from published_tables import markdown
from tables import signed_percent, write_between

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.errors import NoProgramError
from vramplan.planner.units import GIB

HERE = Path(__file__).parent
CASES = HERE / "cases" / "published.jsonl"
NOT_REPRODUCED = HERE / "cases" / "not_reproduced.jsonl"
RESULTS = HERE / "results" / "published.json"
Case = dict[str, Any]
Row = dict[str, Any]
QUANTILES = 100
_UNTRACEABLE: dict[str, NoProgramError] = {}


def load_cases(path: Path = CASES) -> list[Case]:
    """Every case, in the file's order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


@cache
def price(*command: str, rows: tuple[int, tuple[int, ...]] | None = None) -> Candidate:
    """What ``vramplan estimate`` with these arguments prices.

    Args:
        rows: how many, and their length quantiles, as ``--data`` measures them.

    Raises:
        VramplanError: as the command does.
    """
    args = build_parser("estimate").parse_all(["estimate", *command])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    if rows is not None:
        measured = {"num_examples": rows[0], "length_quantiles": rows[1]}
        workload = resolved.workload.model_copy(update=measured)
        resolved = replace(resolved, workload=workload)
    key = subjects.key_of(subject, resolved).digest()
    if key in _UNTRACEABLE:
        raise _UNTRACEABLE[key]
    try:
        return subjects.price(subject, resolved, with_tensors=False)
    except NoProgramError as error:
        _UNTRACEABLE[key] = error  # a second trace of the same program would take as long and fail the same
        raise


def predicted(candidate: Candidate) -> dict[str, int]:
    """The estimate's figure for each metric a source may publish, in bytes."""
    budget = candidate.budget
    return {
        "allocated": budget.peak_allocated_bytes,
        "reserved": budget.peak_reserved_bytes,
        "process": budget.process_bytes,
    }


def highs(candidate: Candidate) -> dict[str, int]:
    """The upper ends of the ranges, in bytes."""
    budget = candidate.budget
    return {"reserved": budget.high_reserved_bytes, "process": budget.high_process_bytes}


def run_case(case: Case) -> Row:
    """A case's result; ``error`` is predicted / measured - 1 in the metric that was measured, None without a price."""
    metric, measured = case["measured"]["metric"], case["measured"]["bytes"]
    try:
        candidate = price(*case["command"], rows=_rows(case))
    except NoProgramError as error:
        return _facts(case) | {"error": None, "refused": error.message}
    figures = predicted(candidate)
    row = _facts(case) | {
        "predicted_bytes": figures,
        "high_bytes": highs(candidate),
        "error": _error(figures[metric], measured),
        "verdict": candidate.verdict,
        "trainable_params": candidate.trainable_params,
        "program": candidate.provenance.key,
        "versions": candidate.provenance.versions,
    }
    if case.get("empties_cache"):
        emptied = reserved_from_empty(*case["command"])
        row["emptied"] = {"predicted_bytes": emptied, "error": _error(emptied, measured)}
    if "unknown" in case:
        row["error_otherwise"] = [_error(_nearest(case, options), measured) for options in case["unknown"]]
    if "mean_batch" in case:
        held = price(*case["command"], *case["mean_batch"]).budget.steady_allocated_bytes
        at_end = round(case["measured"]["end_of_step_allocated_gib"] * GIB)
        row["end_of_step"] = {"measured_bytes": at_end, "predicted_bytes": held, "error": _error(held, at_end)}
    return row


def _rows(case: Case) -> tuple[int, tuple[int, ...]] | None:
    """Rows and their lengths at even shares, where number, mean and deviation were published: taken as log-normal, as
    lengths of texts are, up to the limit above which that source leaves rows out."""
    known = case.get("rows")
    if known is None:
        return None
    variance = math.log(1 + (known["deviation_tokens"] / known["mean_tokens"]) ** 2)
    lengths = NormalDist(math.log(known["mean_tokens"]) - variance / 2, math.sqrt(variance))
    kept = lengths.cdf(math.log(known["at_most_tokens"]))
    shares = [(step + 0.5) / QUANTILES for step in range(QUANTILES)]
    quantiles = (*(round(math.exp(lengths.inv_cdf(share * kept))) for share in shares), known["at_most_tokens"])
    return round(known["num_rows"] * kept), quantiles


def _nearest(case: Case, options: list[str]) -> int:
    """The figure nearest to what was run, with other options, in the metric that was measured."""
    command = (*case["command"], *options)
    return (
        reserved_from_empty(*command)
        if case.get("empties_cache")
        else predicted(price(*command))[case["measured"]["metric"]]
    )


def _error(ours: int, measured: int) -> float:
    return round(ours / measured - 1, 5)


def _facts(case: Case) -> Row:
    return {
        "id": case["id"],
        "repository": case["source"]["repository"],
        "metric": case["measured"]["metric"],
        "measured_bytes": case["measured"]["bytes"],
    }


def main() -> None:
    cases = load_cases()
    rows = []
    for case in cases:
        rows.append(run_case(case))
        error = rows[-1]["error"]
        print(f"{case['id']}: {'not priced' if error is None else signed_percent(error)}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_between(HERE / "README.md", "published", markdown(cases, rows, load_cases(NOT_REPRODUCED)))


if __name__ == "__main__":
    main()
