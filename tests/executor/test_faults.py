"""Faults injected into real runs on a CPU: whatever happens, the numbers are those of a run nobody touched."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import Outcome, killed, make_world, moments, outcome_of, plan_in, undisturbed
from tests.executor.test_ladder import price
from vramplan.executor.events import Event, Failed, Finished, Rung
from vramplan.executor.launcher import Run
from vramplan.planner.adapters.plan_files import read_report

pytest.importorskip("torch")
pytestmark = pytest.mark.train

FAULTY = Path(__file__).with_name("faulty_worker.py")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def expected(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return undisturbed(plan_in(tmp_path_factory.mktemp("expected") / "run", world))


def with_fault(plan_path: Path, fault: str, **options: Any) -> list[Event]:
    command = (sys.executable, "-P", str(FAULTY), fault)
    return list(Run(plan_path, command=command, price=price, **options).events())


@pytest.mark.parametrize(("step", "delay"), moments(2, seed=1))
def test_a_killed_run_goes_on_to_the_same_bits(
    step: int, delay: float, world: dict[str, Any], expected: Outcome, tmp_path: Path
) -> None:
    found = killed(plan_in(tmp_path / "run", world), step, delay)
    assert found.outcome == expected
    assert step - found.resumed_from <= 3  # a checkpoint every third step


def test_out_of_memory_goes_on_one_rung_lower_with_the_same_rows(
    world: dict[str, Any], expected: Outcome, tmp_path: Path
) -> None:
    plan_path = plan_in(tmp_path / "run", world)
    events = with_fault(plan_path, "out_of_memory=1")
    assert [event.change for event in events if isinstance(event, Rung)] == ["micro batch 2 -> 1, accumulation 2 -> 4"]
    assert isinstance(events[-1], Finished)
    report = read_report(plan_path.parent / "report.json")
    assert (report.resumed_from_step, report.steps) == (1, 12)
    assert report.setup is not None
    assert (report.setup.micro_batch_size, report.setup.gradient_accumulation_steps) == (1, 4)
    assert [(rung.phase, rung.step) for rung in report.ladder] == [("backward", 1)]
    assert report.measured_shape is not None
    assert report.measured_shape["micro_batch_size"] == 1
    # The rows of every step are the same; dropout falls on other numbers, so the losses are near and not equal.
    assert dict(report.losses).keys() == dict(expected.losses).keys()
    assert all(loss == pytest.approx(dict(expected.losses)[step], abs=0.1) for step, loss in report.losses)


def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(
    world: dict[str, Any], expected: Outcome, tmp_path: Path
) -> None:
    plan_path = plan_in(tmp_path / "run", world)
    assert isinstance(with_fault(plan_path, "killed_while_saving=6")[-1], Failed)
    assert isinstance(list(Run(plan_path, resume=True).events())[-1], Finished)
    assert outcome_of(plan_path) == expected
    assert read_report(plan_path.parent / "report.json").resumed_from_step == 3
