"""Faults injected into real runs on a CPU: whatever happens, the numbers are those of a run nobody touched."""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import Outcome, killed, make_world, moments, outcome_of, plan_in, undisturbed
from tests.executor.factories import counted, make_budget, make_plan, make_setup, write_run
from tests.executor.test_ladder import price
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Event, Failed, Finished, OutOfMemory, Progress, Rung, Saved
from vramplan.executor.launcher import Run
from vramplan.planner.adapters.plan_files import read_report
from vramplan.planner.units import GIB

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


SHORT: dict[str, Any] = {"dropout": 0.0, "max_steps": 4, "save_steps": None}


@pytest.fixture(scope="module")
def steady(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Four steps nobody disturbs, in fp32 and without dropout, so that the rows of a step may be split at will."""
    plan_path = plan_in(tmp_path_factory.mktemp("steady") / "run", world, eval_data=world["data"].path, **SHORT)
    return undisturbed(plan_path)


@pytest.mark.parametrize("phase", ["forward", "backward", "evaluation"])
def test_out_of_memory_anywhere_a_smaller_batch_helps_ends_at_the_same_loss(
    phase: str, world: dict[str, Any], steady: Outcome, tmp_path: Path
) -> None:
    plan_path = plan_in(tmp_path / "run", world, eval_data=world["data"].path, **SHORT)
    events = with_fault(plan_path, f"out_of_memory_in={phase}")
    assert [event.phase for event in events if isinstance(event, OutOfMemory)] == [phase]
    assert isinstance(events[-1], Finished)
    report = read_report(plan_path.parent / "report.json")
    assert report.setup is not None
    assert report.setup.micro_batch_size * report.setup.gradient_accumulation_steps == 4
    assert [step for step, _ in report.losses] == [step for step, _ in steady.losses]
    assert report.losses[-1][1] == pytest.approx(steady.losses[-1][1], rel=1e-5)


@pytest.mark.parametrize("phase", ["optimizer_step", "save"])
def test_out_of_memory_where_a_smaller_batch_frees_nothing_asks_a_person(
    phase: str, world: dict[str, Any], tmp_path: Path
) -> None:
    """What holds the memory there is weights and optimizer states, and less of either is another result."""
    plan_path = plan_in(tmp_path / "run", world, eval_data=world["data"].path, **SHORT)
    last = with_fault(plan_path, f"out_of_memory_in={phase}")[-1]
    assert isinstance(last, Failed)
    assert "what is left to change would change the result" in last.message
    assert last.remedy is not None
    assert "--optimizer adamw_8bit" in last.remedy
    assert "--method qlora" in last.remedy
    assert "--sequence-length" not in last.remedy
    report = read_report(plan_path.parent / "report.json")
    assert (report.status, report.ladder) == ("failed", ())


def test_files_that_may_not_grow_pause_the_run_until_they_may(world: dict[str, Any], tmp_path: Path) -> None:
    plan_path = plan_in(tmp_path / "run", world, dropout=0.0, max_steps=1)
    events = with_fault(plan_path, "small_files=20000")
    paused = [event.what for event in events if isinstance(event, Progress) and event.what.startswith("paused")]
    assert len(paused) == 1
    assert "free some space to go on" in paused[0]
    assert isinstance(events[-1], Finished)
    assert [event.step for event in events if isinstance(event, Saved)] == [1, 1]


def test_a_strict_budget_stops_a_worker_at_the_budget(world: dict[str, Any], tmp_path: Path) -> None:
    """A machine with room to spare, a plan of 1.25 GiB, and a worker that wants 4 GiB more."""
    most = 5 * GIB // 4
    _, static = counted(world["model_path"], make_setup())
    setup = make_setup(micro_batch_size=1, gradient_checkpointing=True)
    plan = make_plan(tmp_path, setup=setup, budget=make_budget(most, static), trainable_params=16_384, **world)
    plan_path = write_run(plan, tmp_path / "run")
    events = with_fault(plan_path, f"hoard={4 * GIB}", attempt=Attempt(strict_budget=True))
    assert [event.step for event in events if isinstance(event, OutOfMemory)] == [1]
    assert isinstance(events[-1], Failed)
    assert "out of memory in forward of step 2" in events[-1].message
    assert "--sequence-length 16" in str(events[-1].remedy)
    assert most / 2 < int((tmp_path / "run" / "peak").read_text()) <= most


def test_a_kill_in_the_middle_of_a_save_leaves_the_checkpoint_before_it(
    world: dict[str, Any], expected: Outcome, tmp_path: Path
) -> None:
    plan_path = plan_in(tmp_path / "run", world)
    assert isinstance(with_fault(plan_path, "killed_while_saving=6")[-1], Failed)
    assert isinstance(list(Run(plan_path, resume=True).events())[-1], Finished)
    assert outcome_of(plan_path) == expected
    assert read_report(plan_path.parent / "report.json").resumed_from_step == 3
