"""Published training speeds beside the time model's, half of them held back from its fit.

    python benchmarks/throughput.py        # results/throughput.json and the tables in README.md
    python benchmarks/throughput.py fit    # planner/throughput/fitted.py

A case's id is the sha256 of what was published; an even first digit puts it in the half that is fitted on, an odd one
in the half that is reported. A command goes through the parser and the functions ``vramplan estimate`` itself uses;
rows no command expresses stand in the cases with their reason. Needs the ``train`` extra once: some programs do not
ship and are traced.
"""

import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from tables import write_between
from throughput_fit import fit
from throughput_tables import markdown

from vramplan.planner.adapters.profiles import match_profile
from vramplan.planner.adapters.programs import find_program
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.errors import VramplanError
from vramplan.planner.memory.price import Pricing, Question
from vramplan.planner.throughput.communication import Exchange, sharded
from vramplan.planner.throughput.constants import Constants
from vramplan.planner.throughput.fitted import CONSTANTS
from vramplan.planner.throughput.step_time import Counted, Rates, count, rates_of, step_time

HERE = Path(__file__).parent
CASES = HERE / "cases" / "throughput.jsonl"
MODELS = HERE / "cases" / "throughput_models.json"
RESULTS = HERE / "results" / "throughput.json"
FITTED = HERE.parent / "planner" / "throughput" / "fitted.py"
Case = dict[str, Any]
Row = dict[str, Any]


class CountedCase(NamedTuple):
    """A case whose step is counted, and the seconds its authors measured."""

    case: Case
    counted: Counted
    rates: Rates
    exchange: Exchange | None
    measured_seconds: float

    def seconds(self, constants: Constants) -> float:
        return step_time(self.counted, self.rates, constants, exchange=self.exchange).seconds.typical

    @property
    def fitted_on(self) -> bool:
        return is_fitted_on(self.case["id"])


def is_fitted_on(case_id: str) -> bool:
    """The split: decided by the hash of the row."""
    return int(case_id[0], 16) % 2 == 0


def load_cases(path: Path = CASES) -> list[Case]:
    """Every published row, in the file's order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def count_case(case: Case, models: dict[str, Any]) -> CountedCase:
    """Count a case's step, as ``vramplan estimate`` would.

    Raises:
        VramplanError: as the command does.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = list(case["command"])
        if "config" in case:
            Path(folder, "config.json").write_text(json.dumps(models[case["config"]]))
            command.insert(0, folder)
        args = build_parser("estimate").parse_all(["estimate", *command])
        subject = subjects.look_up(args)
    resolved = subjects.complete(subject, given_options(args))
    assert subject.device is not None
    assert subject.device.profile is not None
    program = find_program(subjects.key_of(subject, resolved)).program
    question = Question(subject.model, resolved.workload, resolved.setup, "cuda", subject.device)
    pricing = Pricing(question, program)
    counted = count(question, pricing.replay, pricing.static)
    rates = rates_of(match_profile(subject.device.profile)[0], resolved.setup)
    assert isinstance(rates, Rates)
    exchange = None
    if "link_bytes_per_second" in case:
        exchange = sharded(case["gpus"], case["link_bytes_per_second"], 2 * subject.model.total_params)
        part = counted.optimizer._replace(moved_bytes=counted.optimizer.moved_bytes // case["gpus"])
        counted = counted._replace(optimizer=part)
    tokens = case.get("tokens_a_step", counted.tokens_per_step)
    return CountedCase(case, counted, rates, exchange, tokens / case["tokens_per_second"])


def count_all(cases: Iterable[Case]) -> tuple[list[CountedCase], dict[str, str]]:
    """Every case with a command, counted; and why one could not be."""
    models = json.loads(MODELS.read_text())
    counted, refused = [], {}
    for case in cases:
        if "command" not in case:
            continue
        try:
            counted.append(count_case(case, models))
        except VramplanError as error:
            refused[case["id"]] = error.message
    return counted, refused


def result(one: CountedCase, constants: Constants) -> Row:
    """A case's row of the results; ``error`` is predicted / measured - 1."""
    time = step_time(one.counted, one.rates, constants, exchange=one.exchange)
    case = one.case
    return {
        "id": case["id"],
        "repository": case["source"]["repository"],
        "model": case["model"],
        "method": case["method"],
        "gpu": case["gpu"],
        "gpus": case["gpus"],
        "sequence_length": case["sequence_length"],
        "micro_batch": case["micro_batch"],
        "compiled": case.get("compiled", False),
        "half": "fit" if one.fitted_on else "report",
        "measured_seconds": round(one.measured_seconds, 4),
        "predicted_seconds": round(time.seconds.typical, 4),
        "low_seconds": round(time.seconds.low, 4),
        "high_seconds": round(time.seconds.high, 4),
        "error": round(time.seconds.typical / one.measured_seconds - 1, 4),
        "mfu": round(time.mfu, 4),
    }


def main() -> None:
    cases = load_cases()
    counted, refused = count_all(cases)
    if sys.argv[1:] == ["fit"]:
        FITTED.write_text(fit([one for one in counted if one.fitted_on and not one.case.get("compiled")]))
        return
    rows = [result(one, CONSTANTS) for one in counted]
    rows += [
        {"id": case["id"], "repository": case["source"]["repository"], "model": case["model"], "method": case["method"]}
        | {"not_reproduced": case.get("not_reproduced") or refused[case["id"]]}
        for case in cases
        if case["id"] in refused or "not_reproduced" in case
    ]
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    write_between(HERE / "README.md", "throughput", markdown(rows))
    held = [abs(row["error"]) for row in rows if row.get("half") == "report"]
    print(f"{len(held)} rows held back, median error {median(held):.1%}")


if __name__ == "__main__":
    main()
