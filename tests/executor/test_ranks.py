"""Runs of two processes over gloo on a CPU: the steps of one, each rank's bytes as priced, and what one rank does to
the other."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_tiny_llama, pin, prompt_completion_rows, write_jsonl
from vramplan.executor.checkpoints import newest_complete
from vramplan.executor.events import Event, Failed, Finished, Paused, Resumed, Rung, Saved, Step
from vramplan.executor.launcher import Run
from vramplan.planner.adapters.devices import read_cpu
from vramplan.planner.adapters.folder import read_folder
from vramplan.planner.adapters.plan_files import freeze_plan, read_plan, read_report, write_plan
from vramplan.planner.estimate import estimate
from vramplan.planner.report import RunReport
from vramplan.planner.resolve import resolve

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

WORKER = Path(__file__).with_name("rank_worker.py")
OPTIONS: dict[str, Any] = {
    "dtype": "fp32",
    "sequence_length": 16,
    "valid_labels": 10 / 15,
    "micro_batch": 2,
    "max_steps": 4,
    "learning_rate": 1e-3,
    "padding": "right",
}
"""Every row is longer, so every micro batch is as large as priced."""
EVERY = 8
"""Rows of a step, of however many processes."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    return {
        "model": make_tiny_llama(folder / "model"),
        "rows": write_jsonl(folder / "rows.jsonl", prompt_completion_rows()),
        "held_out": write_jsonl(folder / "held_out.jsonl", prompt_completion_rows()[:4]),
    }


def planned(folder: Path, world: dict[str, Path], **given: Any) -> Path:
    """A plan as ``vramplan plan`` makes it; its path."""
    folder.mkdir()
    model, device = read_folder(world["model"]), read_cpu()
    ranks = given.get("gpus", 1)
    given = OPTIONS | given | {"gradient_accumulation_steps": EVERY // OPTIONS["micro_batch"] // ranks}
    answer = resolve(given | {"output_dir": str(folder / "output"), "eval_data": str(world["held_out"])}, model, device)
    candidate = estimate(model, answer.workload, answer.setup, device)
    write_plan(freeze_plan(candidate, model, answer.recipe, pin(world["rows"])), folder / "plan.json")
    return folder / "plan.json"


def run(plan_path: Path, fault: str = "none", **options: Any) -> list[Event]:
    return list(Run(plan_path, command=(sys.executable, "-P", str(WORKER), fault), **options).events())


def report_of(plan_path: Path) -> RunReport:
    return read_report(plan_path.with_name("report.json"))


@pytest.fixture(scope="module")
def alone(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], RunReport]:
    """The report of one process that takes as many rows a step, once for each method."""
    found: dict[str, RunReport] = {}

    def report(method: str) -> RunReport:
        if method not in found:
            plan_path = planned(tmp_path_factory.mktemp("alone") / "run", world, method=method)
            run(plan_path)
            found[method] = report_of(plan_path)
        return found[method]

    return report


def rows_seen(plan_path: Path, rank: int) -> list[Any]:
    text = plan_path.with_name(f"rows-{rank}.jsonl").read_text()
    return [row for line in text.splitlines() for row in json.loads(line)]


@pytest.mark.parametrize(("sharding", "method"), [("ddp", "lora"), ("fsdp", "full"), ("fsdp", "lora")])
def test_two_processes_take_the_steps_of_one_in_the_bytes_priced_for_each(
    sharding: str, method: str, world: dict[str, Path], alone: Any, tmp_path: Path
) -> None:
    plan_path = planned(tmp_path / "run", world, method=method, gpus=2, sharding=sharding)
    events = run(plan_path)
    assert isinstance(events[-1], Finished)
    assert [event.step for event in events if isinstance(event, Step)] == [1, 2, 3, 4]
    report, one = report_of(plan_path), alone(method)
    assert report.losses[-1][1] < report.losses[0][1]
    assert [loss for _, loss in report.losses] == pytest.approx([loss for _, loss in one.losses], rel=1e-5)
    assert report.eval_loss_before == pytest.approx(one.eval_loss_before, rel=1e-5)
    assert report.eval_loss_after == pytest.approx(one.eval_loss_after, rel=1e-5)
    seen = [rows_seen(plan_path, rank) for rank in (0, 1)]
    assert len(seen[0]) == len(seen[1]) == 4 * EVERY // 2
    assert not any(row in seen[1] for row in seen[0])
    assert [rank.rank for rank in report.ranks] == [0, 1]
    budget = read_plan(plan_path).budget
    for rank in report.ranks:
        assert rank.peak_allocated_bytes == pytest.approx(budget.peak_allocated_bytes, rel=0.02)


@pytest.mark.parametrize(("sharding", "method"), [("zero2", "lora"), ("zero3", "full"), ("zero1", "full")])
def test_two_processes_under_deepspeed_take_the_steps_of_one_in_the_bytes_priced_for_each(
    sharding: str, method: str, world: dict[str, Path], alone: Any, tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed")
    plan_path = planned(tmp_path / "run", world, method=method, gpus=2, sharding=sharding)
    events = run(plan_path)
    assert isinstance(events[-1], Finished), events[-1]
    assert not any(isinstance(event, Saved) and "checkpoint-" in event.path for event in events)
    report, one = report_of(plan_path), alone(method)
    assert [loss for _, loss in report.losses] == pytest.approx([loss for _, loss in one.losses], rel=1e-5)
    assert report.eval_loss_after == pytest.approx(one.eval_loss_after, rel=1e-5)
    budget = read_plan(plan_path).budget
    assert [rank.rank for rank in report.ranks] == [0, 1]
    highest = max(rank.peak_allocated_bytes or 0 for rank in report.ranks)
    assert highest == pytest.approx(budget.peak_allocated_bytes, rel=0.02)
    weights = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert (tmp_path / "run" / "output" / weights).is_file()


def test_a_signal_stops_both_and_the_run_goes_on_to_the_same_numbers(
    world: dict[str, Path], alone: Any, tmp_path: Path
) -> None:
    plan_path = planned(tmp_path / "run", world, method="full", gpus=2, sharding="fsdp")
    started = Run(plan_path, command=(sys.executable, "-P", str(WORKER), "none"))
    events = []
    for event in started.events():
        events.append(event)
        if isinstance(event, Step) and event.step == 2:
            started.stop()
    last = events[-1]
    assert isinstance(last, Failed)
    assert last.interrupted
    fingerprint = read_plan(plan_path).fingerprint
    newest = newest_complete(tmp_path / "run" / "output", fingerprint)
    assert newest.seal is not None
    assert newest.seal.step >= 2
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= newest.seal.files.keys()
    assert isinstance(run(plan_path, resume=True)[-1], Finished)
    report = report_of(plan_path)
    assert report.resumed_from_step == newest.seal.step
    assert [loss for _, loss in report.losses] == pytest.approx([loss for _, loss in alone("full").losses], rel=1e-5)
    assert [rank.rank for rank in report.ranks] == [0, 1]


def test_a_pause_holds_both_at_one_step_and_changes_no_number(
    world: dict[str, Path], alone: Any, tmp_path: Path
) -> None:
    plan_path = planned(tmp_path / "run", world, method="lora", gpus=2, sharding="ddp")
    started = Run(plan_path, command=(sys.executable, "-P", str(WORKER), "none"))
    started.pause()
    told = []
    for event in started.events():
        if isinstance(event, Saved | Paused | Resumed):
            told.append((event.event, event.step))
        if isinstance(event, Paused):
            time.sleep(1.0)
            started.go_on()
    assert told == [("saved", 1), ("paused", 1), ("resumed", 1), ("saved", 4)]
    report = report_of(plan_path)
    assert [loss for _, loss in report.losses] == pytest.approx([loss for _, loss in alone("lora").losses], rel=1e-5)
    assert report.paused_seconds >= 1.0


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("killed=1:2", "rank 1 ended without a report (killed by SIGKILL)"),
        ("raises=1:2", "rank 1: ValueError in forward of step 2: a fault of one rank"),
        ("killed=0:2", "rank 0 ended without a report (killed by SIGKILL)"),
    ],
)
def test_a_dead_rank_ends_the_run_and_is_named(fault: str, says: str, world: dict[str, Path], tmp_path: Path) -> None:
    plan_path = planned(tmp_path / "run", world, method="lora", gpus=2, sharding="ddp")
    last = run(plan_path, fault)[-1]
    assert isinstance(last, Failed)
    assert last.message == says
    assert last.remedy
    report = report_of(plan_path)
    assert (report.status, report.failure, report.steps) == ("failed", says, 1)


def test_one_rank_out_of_memory_takes_both_one_rung_lower(world: dict[str, Path], alone: Any, tmp_path: Path) -> None:
    plan_path = planned(tmp_path / "run", world, method="lora", gpus=2, sharding="ddp")
    events = run(plan_path, "exhausted=1:2")
    assert [event.change for event in events if isinstance(event, Rung)] == ["micro batch 2 -> 1, accumulation 2 -> 4"]
    assert isinstance(events[-1], Finished)
    assert report_of(plan_path).last_loss == pytest.approx(alone("lora").last_loss, rel=1e-5)


def test_ranks_that_say_nothing_show_their_stacks_and_are_ended(world: dict[str, Path], tmp_path: Path) -> None:
    plan_path = planned(tmp_path / "run", world, method="lora", gpus=2, sharding="ddp")
    last = run(plan_path, "hangs=1:2", silence_seconds=30.0)[-1]
    assert isinstance(last, Failed)
    assert "the worker hung" in last.message
    assert "in hangs" in plan_path.with_name("worker.log").read_text()
