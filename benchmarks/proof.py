"""How much of the code the tests reach, and which of a sample of small faults they notice, as one block of README.md.

make coverage    runs the tests, and hands what `coverage json` wrote to this script
make mutation    writes `results/mutation.json` (mutation.py), and then the block

What was fuzzed (`results/fuzzing.json`, by `python -m fuzz.campaign`) stands there too.
"""

import argparse
import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tables import table, write_between

HERE = Path(__file__).parent
COVERAGE = HERE / "results" / "coverage.json"
MUTATION = HERE / "results" / "mutation.json"
FUZZING = HERE / "results" / "fuzzing.json"
FOLDERS = {"planner": 95, "executor": 85, "tui": 85}
"""Folders, and the share of lines and branches that `make coverage` asks for, in percent."""
LEAST_REACHED = 8
COUNTS = ("num_statements", "covered_lines", "num_branches", "covered_branches")


def folded(report: dict[str, Any]) -> dict[str, Any]:
    """What stays of a report of `coverage json`: the counts of each folder, and of the files reached least."""
    files = {path: {name: found["summary"][name] for name in COUNTS} for path, found in report["files"].items()}
    folders = {
        folder: {
            name: sum(counts[name] for path, counts in files.items() if Path(path).parts[0] == folder)
            for name in COUNTS
        }
        for folder in FOLDERS
    }
    least = sorted(
        (path for path, counts in files.items() if counts["num_statements"]), key=lambda at: share(files[at])
    )
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "python": platform.python_version(),
        "folders": folders,
        "least": {path: files[path] for path in least[:LEAST_REACHED]},
    }


def share(counts: dict[str, int]) -> float:
    """Lines and branches reached, of all there are.

    >>> share({"num_statements": 6, "covered_lines": 5, "num_branches": 4, "covered_branches": 3})
    0.8
    """
    reached = counts["covered_lines"] + counts["covered_branches"]
    return reached / (counts["num_statements"] + counts["num_branches"])


def block() -> str:
    """What stands in README.md: what there are results of."""
    parts = [(COVERAGE, _reached), (MUTATION, _noticed), (FUZZING, _fuzzed)]
    return "\n\n".join(words(json.loads(path.read_text())) for path, words in parts if path.exists())


def _reached(coverage: dict[str, Any]) -> str:
    folders = [[*row, f"{FOLDERS[row[0]]} %"] for row in _rows(coverage["folders"])]
    facts = (
        "What `make coverage` reaches, which runs the samples of several days, processes they start included "
        f"({coverage['date']}, Python {coverage['python']}):"
    )
    reached = table(["folder", "lines", "branches", "both", "asked for"], folders, "lrrrr")
    least = table(["files reached least", "lines", "branches", "both"], _rows(coverage["least"]), "lrrr")
    return "\n\n".join([facts, reached, least])


def _rows(found: dict[str, dict[str, int]]) -> list[list[str]]:
    return [
        [
            name,
            _of(counts["covered_lines"], counts["num_statements"]),
            _of(counts["covered_branches"], counts["num_branches"]),
            f"{100 * share(counts):.1f} %",
        ]
        for name, counts in found.items()
    ]


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,}"


def _noticed(mutation: dict[str, Any]) -> str:
    faults, killed = mutation["faults"], mutation["killed"]
    text = (
        f"Of {faults} small faults put into `planner/memory` of {mutation['commit']}, one at a time, the tests that "
        f"need no PyTorch notice {killed}: {100 * killed / faults:.0f} %."
    )
    if "killed_before" in mutation:
        text += f" Before tests were written for what they had not noticed it was {mutation['killed_before']}."
    rows = [[f"`{each['module']}`", str(each["line"]), each["fault"]] for each in mutation["survived"]]
    return f"{text}\n\n{table(['not noticed in', 'line', 'fault'], rows, 'lrl')}" if rows else text


def _fuzzed(targets: dict[str, Any]) -> str:
    rows = [
        [
            name,
            f"{found['seconds'] / 60:.0f}",
            f"{found['cpu_seconds'] / 60:.0f}",
            f"{found['inputs']:,.0f}",
            str(found["findings"]),
        ]
        for name, found in targets.items()
    ]
    text = "Readers given whatever reaches new code (`python -m fuzz.campaign`), on a machine with other work:"
    return f"{text}\n\n{table(['reader', 'minutes', 'of a processor', 'inputs', 'findings'], rows, 'lrrrr')}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--coverage", metavar="FILE", type=Path, help="a report of `coverage json`, to be kept")
    args = parser.parse_args()
    if args.coverage is not None:
        found = folded(json.loads(args.coverage.read_text()))
        COVERAGE.write_text(json.dumps(found, indent=1) + "\n")
    write_between(HERE / "README.md", "proof", block())


if __name__ == "__main__":
    main()
