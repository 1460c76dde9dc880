"""The published runs we compare ourselves with: each can be asked of the command, and the results are about them."""

import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import given_options
from vramplan.planner.memory.static import count_static
from vramplan.planner.units import GIB

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
PUBLISHED_ROWS = 283
FIELDS = {"id", "source", "model", "measured", "gpu", "versions", "command", "differs"}


@pytest.fixture(scope="module")
def published() -> Iterator[ModuleType]:
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("published")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def cases(published: ModuleType) -> list[dict[str, Any]]:
    return list(published.load_cases())


@pytest.fixture(scope="module")
def left_out(published: ModuleType) -> list[dict[str, Any]]:
    return list(published.load_cases(published.NOT_REPRODUCED))


@pytest.fixture(scope="module")
def results(published: ModuleType) -> list[dict[str, Any]]:
    return list(json.loads(published.RESULTS.read_text()))


def _resolved(command: list[str]) -> tuple[Any, Any]:
    args = build_parser("estimate").parse_all(["estimate", *command])
    subject = subjects.look_up(args)
    return subject, subjects.complete(subject, given_options(args))


def test_every_case_says_what_was_measured_where_and_how_it_differs(cases: list[dict[str, Any]]) -> None:
    assert len(cases) >= 50
    assert len({case["id"] for case in cases}) == len(cases)
    for case in cases:
        assert case.keys() >= FIELDS, case["id"]
        assert case["measured"]["metric"] in ("allocated", "reserved", "process")
        assert case["differs"], f"{case['id']}: no published run is exactly what we price"
        assert case["source"]["repository"].count("/") == 1
        assert case["source"]["path"]


def test_every_published_row_is_priced_or_left_out_for_a_reason(
    cases: list[dict[str, Any]], left_out: list[dict[str, Any]]
) -> None:
    assert len(cases) + len(left_out) == PUBLISHED_ROWS
    assert len({case["id"] for case in [*cases, *left_out]}) == PUBLISHED_ROWS
    for case in left_out:
        assert case["reason"]
        assert case["source"]["repository"].count("/") == 1


def test_the_bytes_are_the_published_figure(cases: list[dict[str, Any]]) -> None:
    units = {"B": 1, "GiB": GIB, "GB": GIB}  # a card of 12 GB has 12 GiB
    for case in cases:
        found = re.search(r"([\d.]+) (B|GiB|GB)$", case["measured"]["as_published"])
        assert found, case["id"]
        assert case["measured"]["bytes"] == round(float(found[1]) * units[found[2]]), case["id"]


def test_every_command_is_understood(cases: list[dict[str, Any]]) -> None:
    for case in cases:
        _, resolved = _resolved(case["command"])
        assert resolved.setup.loss == "standard", case["id"]


def test_trainable_parameters_are_those_the_source_counted(cases: list[dict[str, Any]]) -> None:
    compared = 0
    for case in cases:
        counted = case["measured"].get("trainable_params")
        if counted is None:
            continue
        subject, resolved = _resolved(case["command"])
        assert count_static(subject.model, resolved.setup).trainable_params == counted, case["id"]
        compared += 1
    assert compared == 39


def test_what_a_step_leaves_behind_grows_with_the_rank_as_peft_measured(
    cases: list[dict[str, Any]], results: list[dict[str, Any]]
) -> None:
    """Same batches, so logits and caches cancel: 9,175,040 more parameters in fp32, gradients and two states."""
    held = {case["id"]: case["measured"].get("end_of_step_allocated_gib") for case in cases}
    ours = {row["id"]: row["end_of_step"]["predicted_bytes"] for row in results if "end_of_step" in row}
    large, small = "peft-lora-rank64-torch2.13", "peft-lora-rank32-torch2.13"
    assert ours[large] - ours[small] == 16 * 9_175_040
    assert (ours[large] - ours[small]) / GIB == pytest.approx(held[large] - held[small], abs=1e-4)


def test_what_a_step_leaves_behind_is_within_one_percent_of_every_run_of_pefts(
    cases: list[dict[str, Any]], results: list[dict[str, Any]]
) -> None:
    held = {case["id"]: case["measured"].get("end_of_step_allocated_gib") for case in cases}
    ends = {row["id"]: row["end_of_step"]["predicted_bytes"] / GIB for row in results if "end_of_step" in row}
    assert len(ends) == 39
    for name, ours in ends.items():
        assert ours == pytest.approx(held[name], rel=0.01), name


def test_peaks_from_an_emptied_cache_are_within_five_percent_of_every_run_of_pefts(
    cases: list[dict[str, Any]], results: list[dict[str, Any]]
) -> None:
    measured = {case["id"]: case["measured"]["bytes"] for case in cases}
    ours = {row["id"]: row["emptied"]["predicted_bytes"] for row in results if "emptied" in row}
    assert len(ours) == 39
    for name, peak in ours.items():
        assert peak == pytest.approx(measured[name], rel=0.05), name


def test_the_results_are_about_these_cases(cases: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in results] == [case["id"] for case in cases]
    for row, case in zip(results, cases, strict=True):
        assert row["measured_bytes"] == case["measured"]["bytes"]
        assert row["metric"] == case["measured"]["metric"]
        if row["error"] is None:
            assert row["refused"]
        else:
            off = row["predicted_bytes"][row["metric"]] - row["measured_bytes"]
            assert off == pytest.approx(row["error"] * row["measured_bytes"], abs=1e-5 * row["measured_bytes"])


def test_the_tables_are_those_of_the_results(
    published: ModuleType,
    cases: list[dict[str, Any]],
    results: list[dict[str, Any]],
    left_out: list[dict[str, Any]],
) -> None:
    assert published.markdown(cases, results, left_out) in (BENCHMARKS / "README.md").read_text()


@pytest.mark.train
def test_a_result_is_what_the_estimate_says_today(
    published: ModuleType, cases: list[dict[str, Any]], results: list[dict[str, Any]]
) -> None:
    chosen = next(index for index, case in enumerate(cases) if case["id"].startswith("peft-full"))
    assert published.run_case(cases[chosen]) == results[chosen]
