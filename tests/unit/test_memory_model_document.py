"""The figures in docs/memory-model.md are the code's."""

import re
from pathlib import Path

import pytest

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.memory.budget import BudgetLine

# Programs for these setups ship; where they do not, they are traced, which needs the extra.
pytestmark = pytest.mark.train

PAGE = (Path(__file__).parents[2] / "docs" / "memory-model.md").read_text()
MODEL = ["meta-llama/Llama-3.1-8B", "--micro-batch", "1"]


def _between(name: str) -> str:
    return PAGE.split(f"<!-- {name} -->")[1].split(f"<!-- /{name} -->")[0]


def _price(*options: str) -> Candidate:
    args = build_parser("estimate").parse_all(["estimate", *MODEL, *options])
    subject = subjects.look_up(args)
    return subjects.price(subject, subjects.complete(subject, given_options(args)), with_tensors=False)


def _peak_lines(candidate: Candidate) -> tuple[BudgetLine, ...]:
    budget = candidate.budget
    return next(phase.lines for phase in budget.phases if phase.name == budget.peak_phase)


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def test_the_example_is_what_the_command_prints() -> None:
    candidate = _price("--method", "qlora", "--sequence-length", "2048", "--device", "RTX 4090")
    budget = candidate.budget
    lines = (*_peak_lines(candidate), *budget.process_lines)
    priced = {line.component: line.estimate_bytes for line in lines}
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \|", _between("example"), re.MULTILINE)
    written = {name: _number(size) for name, size in rows}
    assert written == priced | {"allocated": budget.peak_allocated_bytes, "process": budget.process_bytes}


def test_the_honest_numbers_beside_rules_of_thumb_are_the_estimates() -> None:
    parts = {
        "weights and quantisation state": ("weights", "quantization_state"),
        "activations, loss and temporaries at the peak": ("activations", "loss", "temporaries"),
        "everything allocated at the peak": None,
    }
    compared = 0
    wanted: tuple[str, ...] | None = None
    for line in _between("rules").splitlines():
        if line in parts:
            wanted = parts[line]
        elif found := re.match(r"  (--.*?) +([\d,]+)$", line):
            lines = _peak_lines(_price("--memory", "80GiB", *found[1].split()))
            size = sum(row.estimate_bytes for row in lines if wanted is None or row.component in wanted)
            assert size == _number(found[2]), line
            compared += 1
    assert compared == 6
