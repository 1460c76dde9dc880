"""Price every published run of cases/published.jsonl and set the price beside what its authors measured.

    python benchmarks/published.py

Writes results/published.json and the tables in README.md. Nothing is fitted to a row: a command goes through the
parser and the functions ``vramplan estimate`` itself uses.
"""

import json
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from tables import gib, signed_percent, table, write_between

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.memory.structure import program_key

HERE = Path(__file__).parent
CASES = HERE / "cases" / "published.jsonl"
RESULTS = HERE / "results" / "published.json"
Case = dict[str, Any]
Row = dict[str, Any]
_UNTRACEABLE: dict[str, NoProgramError] = {}


def load_cases() -> list[Case]:
    """Every case, in the file's order."""
    return [json.loads(line) for line in CASES.read_text().splitlines()]


def price(command: list[str]) -> tuple[Candidate, str]:
    """What ``vramplan estimate`` with these arguments prices, and the loop that was priced.

    A loop that has no price yet is priced as the executor's; the result names the loop that was.

    Raises:
        VramplanError: as the command does.
    """
    args = build_parser("estimate").parse_all(["estimate", *command])
    subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    try:
        program_key(subject.model, resolved.workload, resolved.setup, "cuda")
    except UnsupportedError:
        resolved = replace(resolved, setup=resolved.setup.model_copy(update={"loop": "executor"}))
    key = program_key(subject.model, resolved.workload, resolved.setup, "cuda").digest()
    if key in _UNTRACEABLE:
        raise _UNTRACEABLE[key]
    try:
        return subjects.price(subject, resolved, with_tensors=False), resolved.setup.loop
    except NoProgramError as error:
        _UNTRACEABLE[key] = error  # a second trace of the same program would take as long and fail the same
        raise


def predicted(candidate: Candidate) -> dict[str, int]:
    """The estimate's figure for each metric a source may publish, in bytes."""
    budget = candidate.budget
    step = next(phase for phase in budget.phases if phase.name == "optimizer_step")
    passing = sum(line.estimate_bytes for line in step.lines if line.component == "temporaries")
    return {
        "allocated": budget.peak_allocated_bytes,
        "reserved": budget.peak_reserved_bytes,
        "process": budget.process_bytes,
        "end_of_step": step.allocated_bytes - passing,
    }


def run_case(case: Case) -> Row:
    """A case's result; ``error`` is predicted / measured - 1 in the metric that was measured, None without a price."""
    metric, measured = case["measured"]["metric"], case["measured"]["bytes"]
    try:
        candidate, loop = price(case["command"])
    except NoProgramError as error:
        return _facts(case) | {"error": None, "refused": error.message}
    figures = predicted(candidate)
    row = _facts(case) | {
        "predicted_bytes": figures,
        "error": round(figures[metric] / measured - 1, 5),
        "trainable_params": candidate.trainable_params,
        "loop_priced": loop,
        "program": candidate.provenance.key,
        "versions": candidate.provenance.versions,
    }
    if "sequence_length_range" in case:
        row["error_range"] = [
            round(predicted(price([*case["command"], "--sequence-length", str(tokens)])[0])[metric] / measured - 1, 5)
            for tokens in case["sequence_length_range"]
        ]
    return row


def _facts(case: Case) -> Row:
    return {
        "id": case["id"],
        "repository": case["source"]["repository"],
        "metric": case["measured"]["metric"],
        "measured_bytes": case["measured"]["bytes"],
    }


def markdown(cases: list[Case], rows: list[Row]) -> str:
    """The tables of README.md."""
    parts = [_summary(rows)]
    for repository in dict.fromkeys(row["repository"] for row in rows):
        own = [row for row in rows if row["repository"] == repository]
        parts.append(f"### {repository}\n\n{_rows(own)}")
    parts.append(f"### What one choice changes\n\n{_differences(cases, rows)}")
    return "\n\n".join(parts)


def _summary(rows: list[Row]) -> str:
    head = ["source", "runs", "priced", "metric", "median error", "worst error"]
    body = []
    for repository in dict.fromkeys(row["repository"] for row in rows):
        own = [row for row in rows if row["repository"] == repository]
        errors = [row["error"] for row in own if row["error"] is not None]
        figures = [signed_percent(median(errors)), signed_percent(max(errors, key=abs))] if errors else ["", ""]
        body.append([repository, str(len(own)), str(len(errors)), own[0]["metric"], *figures])
    return table(head, body, "lrrlrr")


def _rows(rows: list[Row]) -> str:
    ranged = any("error_range" in row for row in rows)
    head = ["run", "measured", "predicted", "error", *(["error at 680 to 768 tokens"] if ranged else [])]
    body = []
    for row in rows:
        if row["error"] is None:
            body.append([row["id"], gib(row["measured_bytes"]), "not priced", *[""] * (len(head) - 3)])
            continue
        figures = [gib(row["measured_bytes"]), gib(row["predicted_bytes"][row["metric"]]), signed_percent(row["error"])]
        across = [" to ".join(signed_percent(error) for error in row.get("error_range", []))] if ranged else []
        body.append([row["id"], *figures, *across])
    return table(head, body, "lrrrr" if ranged else "lrrr")


def _differences(cases: list[Case], rows: list[Row]) -> str:
    """Runs of the same batches: what is unknown about the batches, and what the loop holds, cancels.

    Gradients are still there at the end of those loops' steps.
    """
    by_id = {row["id"]: row for row in rows}
    held = {case["id"]: case["measured"].get("end_of_step_allocated_gib") for case in cases}
    body = []
    for case in cases:
        if "compare_with" in case:
            row, other = by_id[case["id"]], by_id[case["compare_with"]]
            if row["error"] is None or other["error"] is None:
                continue
            measured = row["measured_bytes"] - other["measured_bytes"]
            ours = row["predicted_bytes"][row["metric"]] - other["predicted_bytes"][other["metric"]]
            name = f"{row['id']} over {other['id']}"
            body.append([name, row["metric"], gib(measured), gib(ours), gib(ours - measured)])
            measured = round((held[row["id"]] - held[other["id"]]) * 2**30)
            ours = row["predicted_bytes"]["end_of_step"] - other["predicted_bytes"]["end_of_step"]
            body.append([name, "allocated, end of step", gib(measured), gib(ours), gib(ours - measured)])
    return table(["difference", "metric", "measured", "predicted", "off by"], body, "llrrr")


def main() -> None:
    cases = load_cases()
    rows = []
    for case in cases:
        rows.append(run_case(case))
        error = rows[-1]["error"]
        print(f"{case['id']}: {'not priced' if error is None else signed_percent(error)}", flush=True)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_between(HERE / "README.md", "published", markdown(cases, rows))


if __name__ == "__main__":
    main()
