"""A notebook's readings beside what a program has alive: the results are about them, and outputs agree."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
LAST_DIGIT = 2_000_000
"""Each reading is rounded to 0.001 GB, and what grew is a difference of two."""


@pytest.fixture(scope="module")
def activations() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("activations")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def results(activations: ModuleType) -> list[dict[str, Any]]:
    return list(json.loads(activations.RESULTS.read_text()))


def test_every_reading_is_compared_or_left_out_for_a_reason(
    activations: ModuleType, results: list[dict[str, Any]]
) -> None:
    cases = {case["id"]: case for case in activations.load_cases()}
    assert len(cases) == 68
    assert {row["id"] for row in results} == set(cases)
    for row in results:
        case = cases[row["id"]]
        if "not_compared" in row:
            assert row["not_compared"] == case["not_compared"]
            continue
        grown = case["measured_gb"][row["moment"]] - case["measured_gb"]["after_model"]
        assert row["measured_bytes"] == pytest.approx(grown * 10**9, abs=1)
        assert row["error"] == pytest.approx(row["predicted_bytes"] / row["measured_bytes"] - 1, abs=1e-5)


@pytest.mark.parametrize("setup", ["full-inference", "lora-inference", "full-training", "lora-training"])
def test_what_outputs_and_gradients_hold_is_what_the_first_notebook_read(
    setup: str, results: list[dict[str, Any]]
) -> None:
    moment = "after_forward" if setup.endswith("inference") else "after_backward"
    row = next(row for row in results if row["id"] == f"bnb-notebook-{setup}-2048" and row["moment"] == moment)
    assert row["predicted_bytes"] == pytest.approx(row["measured_bytes"], abs=LAST_DIGIT)


def test_the_table_is_that_of_the_results(activations: ModuleType, results: list[dict[str, Any]]) -> None:
    assert activations.markdown(results) in (BENCHMARKS / "README.md").read_text()
