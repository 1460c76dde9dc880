"""Every measurement we know beside its prediction: how near, by method and by what was measured; where the worst misses
lie, tensor by tensor; what a verdict would have been; which rows any constant was set from.

    python benchmarks/accuracy.py            the tables of README.md, and rows.md, from results/*.json
    python benchmarks/accuracy.py --worst    first prices the worst runs again for the tensors at their peak

Nothing is measured or predicted here: the scripts that do write results/.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from accuracy_tables import Measurement, markdown, rows_page
from tables import write_between

from vramplan.planner.errors import VramplanError

HERE = Path(__file__).parent
RESULTS = HERE / "results"
WORST = RESULTS / "worst.json"
ROWS = HERE / "rows.md"
WORST_OF_EACH = 3
"""Methods of each source, the worst run of each, that are explained."""
TENSORS = 6
SAME = {
    "ln_tuning": "ln-tuning",
    "lora(dora)": "lora (DoRA)",
    "p_tuning": "ptuning",
    "prefix_tuning": "prefix",
    "prompt_tuning": "prompt",
}
"""What a source calls a method, and what we do."""
NEVER, FITTED, HELD_BACK = "none", "step times' constants", "none: held back"


def load(name: str) -> Any:
    """A results file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def cases(name: str) -> dict[str, dict[str, Any]]:
    """A file of cases by id."""
    lines = (HERE / "cases" / f"{name}.jsonl").read_text().splitlines()
    return {case["id"]: case for case in map(json.loads, lines)}


def measurements() -> list[Measurement]:
    """All of them, in the order of the files."""
    return [*_published(), *_activations(), *_speeds(), *_steps(), *_ranks(), *_runs()]


def _method(command: list[str]) -> str:
    method = command[command.index("--method") + 1]
    return f"{method} (DoRA)" if "--use-dora" in command else method


def _published() -> list[Measurement]:
    known, out = cases("published"), []
    for row in load("published"):
        method = _method(known[row["id"]]["command"])
        if row["error"] is not None:
            predicted = row["predicted_bytes"][row["metric"]]
            out.append(_bytes(row["repository"], row["id"], method, row["metric"], row["measured_bytes"], predicted))
        for key, metric in (("emptied", "reserved, from an emptied cache"), ("end_of_step", "allocated, end of step")):
            if key in row:
                measured = row[key].get("measured_bytes", row["measured_bytes"])
                out.append(_bytes(row["repository"], row["id"], method, metric, measured, row[key]["predicted_bytes"]))
    return out


def _bytes(source: str, name: str, method: str, metric: str, measured: int, predicted: int) -> Measurement:
    return Measurement(source, name, method, metric, measured, predicted, NEVER)


def _activations() -> list[Measurement]:
    known = cases("activations")
    return [
        _bytes(
            known[row["id"]]["source"]["repository"],
            row["id"],
            _method(known[row["id"]]["command"]),
            f"allocated, grown {row['moment'].replace('_', ' the ')}",
            row["measured_bytes"],
            row["predicted_bytes"],
        )
        for row in load("activations")
        if "error" in row
    ]


def _speeds() -> list[Measurement]:
    return [
        Measurement(
            row["repository"],
            f"{row['id']} {row['model']}, {row['gpus']} x {row['gpu']}, {row['sequence_length']} tokens",
            SAME.get(row["method"], row["method"]) + (", compiled" if row["compiled"] else ""),
            "step time",
            row["measured_seconds"],
            row["predicted_seconds"],
            HELD_BACK if row["half"] == "report" or row["compiled"] else FITTED,
        )
        for row in load("throughput")
        if "error" in row
    ]


def _steps() -> list[Measurement]:
    """Real steps of small models on a CPU: the tracked peak of the highest phase."""
    out = []
    for name, row in load("reality").items():
        if "refused" not in row:
            mode = name.partition(" / ")[2]
            measured, predicted = max(row["tracked_bytes"].values()), max(row["predicted_bytes"].values())
            out.append(_bytes("this project, CPU", name, mode, "allocated, a step tracked", measured, predicted))
    return out


def _ranks() -> list[Measurement]:
    return [
        _bytes(
            "this project, CPU",
            f"{row['cell']}, {row['ranks']} processes",
            row["cell"],
            "allocated, a rank tracked",
            max(row["measured_peak_bytes"]),
            row["predicted_peak_bytes"],
        )
        for row in load("sharded")["rows"]
    ]


def _runs() -> list[Measurement]:
    """Whole runs of small models by the executor."""
    return [
        _bytes(
            "this project, CPU",
            name,
            name.rpartition(" / ")[2],
            "allocated, a run",
            row["peak_measured"],
            row["peak_planned"],
        )
        for name, row in load("methods").items()
        if row.get("peak_measured")
    ]


def worst_runs() -> list[dict[str, Any]]:
    """The published runs that are furthest off, of each source, with the tensors at their peak."""
    from pricings import pricing_of

    from vramplan.planner.memory.expand import live_at_peak

    known, out = cases("published"), []
    rows = [row for row in load("published") if row["error"] is not None]
    for repository in dict.fromkeys(row["repository"] for row in rows):
        by_method: dict[str, dict[str, Any]] = {}
        for row in sorted(rows, key=lambda row: abs(row["error"]), reverse=True):
            if row["repository"] == repository:
                by_method.setdefault(_method(known[row["id"]]["command"]), row)
        for row in list(by_method.values())[:WORST_OF_EACH]:
            try:
                pricing = pricing_of(*known[row["id"]]["command"])
            except VramplanError as error:
                raise SystemExit(f"{row['id']}: {error.message}") from error
            budget = pricing.budget(with_tensors=False, with_allocator=False)
            peak = next(phase for phase in budget.phases if phase.name == budget.peak_phase)
            out.append(
                {
                    "id": row["id"],
                    "phase": peak.name,
                    "parts": {line.component: line.estimate_bytes for line in peak.lines},
                    "tensors": [
                        tensor.model_dump(mode="json") for tensor in live_at_peak(pricing.replay, limit=TENSORS)
                    ],
                }
            )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description="Every measurement beside its prediction.")
    parser.add_argument("--worst", action="store_true", help="price the worst runs again")
    if parser.parse_args().worst:
        WORST.write_text(json.dumps(worst_runs(), indent=1) + "\n")
    write_between(HERE / "README.md", "accuracy", tables())
    ROWS.write_text(rows_page(measurements()))


def tables() -> str:
    """What stands in README.md."""
    return markdown(measurements(), load("published"), cases("published"), load("worst"))


if __name__ == "__main__":
    main()
