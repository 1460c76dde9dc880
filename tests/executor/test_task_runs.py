"""Classification and seq2seq, planned and run end to end: tiny models on a CPU, every cell of benchmarks/methods.py.

The loss falls, what was saved is loaded by transformers and PEFT alone and has the same loss, static bytes are the
planned ones, and the peak is within 2 % of them.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.methods import Cell, cells, is_good, run_cell
from tests.executor.task_worlds import make_model, priced_plan, rows_of
from tests.executor.test_training import trained
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Event, Saved
from vramplan.executor.process import Stop
from vramplan.executor.worker import Work
from vramplan.planner.errors import ExitCode
from vramplan.planner.report import RunReport

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: cell.name)
def test_a_method_learns_loads_again_and_takes_what_was_planned(cell: Cell, tmp_path: Path) -> None:
    row = run_cell(cell, tmp_path)
    assert is_good(row), row


@pytest.mark.parametrize(("family", "task"), [("roberta", "classification"), ("bart", "seq2seq")])
def test_a_run_goes_on_from_its_checkpoint_to_the_same_end(family: str, task: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", family, task)
    reports: list[RunReport] = []
    for name in ("whole", "cut"):
        folder = tmp_path / name
        folder.mkdir()
        plan = priced_plan(folder, model, task, method="lora", rank=4, recipe={"max_steps": 6, "save_steps": 3})
        stop, events = Stop(), []

        def hear(event: Event, stop: Stop = stop, events: list[Event] = events, name: str = name) -> None:
            events.append(event)
            stop.requested = stop.requested or (name == "cut" and isinstance(event, Saved) and event.step == 3)

        Work(plan, Attempt(), folder, hear, stop).run()
        if name == "cut":
            checkpoint = next(event.path for event in events if isinstance(event, Saved) and event.step == 3)
            code = Work(plan, Attempt(resume_from=checkpoint), folder, events.append, Stop()).run()
            assert code == ExitCode.OK
        reports.append(RunReport.model_validate_json((folder / "report.json").read_text()))
    assert [report.steps for report in reports] == [6, 6]
    assert reports[1].resumed_from_step == 3
    assert reports[1].last_loss == reports[0].last_loss


@pytest.mark.parametrize(("family", "task"), [("bert", "classification"), ("t5", "seq2seq"), ("bart", "seq2seq")])
def test_micro_batches_are_averaged_and_not_added_up(family: str, task: str, tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", family, task)
    losses = []
    for name, size in (("whole", {}), ("parted", {"micro_batch": 1, "gradient_accumulation_steps": 4})):
        folder = tmp_path / name
        folder.mkdir()
        recipe = {"max_steps": 3, "max_grad_norm": 0.0, "learning_rate": 1e-1}
        plan = priced_plan(folder, model, task, method="full", recipe=recipe, optimizer="sgd", **size)
        assert plan.setup.method.kind == "full"
        report = trained(plan, folder)[1]
        losses.append([loss for _, loss in report.losses])
    assert losses[1][0] == pytest.approx(losses[0][0], rel=0.1)
    assert losses[1][-1] == pytest.approx(losses[0][-1], rel=0.2)


def test_a_head_of_another_size_is_replaced_and_classes_keep_their_names(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "bert", "classification", num_labels=7)
    plan = priced_plan(tmp_path, model, "classification", method="full", recipe={"max_steps": 2})
    code, report, _ = trained(plan, tmp_path)
    assert (code, report.status) == (ExitCode.OK, "done")
    saved = json.loads((tmp_path / "output" / "config.json").read_text())
    assert saved["id2label"] == {"0": "blue", "1": "green", "2": "red"}


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = make_model(tmp_path / "model", "bert", "classification")
    plan = priced_plan(tmp_path, model, "classification", method="lora", recipe={"max_steps": 2})
    weights: dict[str, Any] = load_file(model / "model.safetensors")
    lost = "bert.encoder.layer.1.output.dense.weight"
    save_file({name: tensor for name, tensor in weights.items() if name != lost}, model / "model.safetensors")
    code, report, _ = trained(plan, tmp_path)
    assert code == ExitCode.FAILED
    assert lost in (report.failure or "")


def test_the_longest_rows_of_both_sides_come_first(tmp_path: Path) -> None:
    rows = [{"input": "1 2", "target": "2 1"}] * 20 + rows_of("seq2seq", 12)
    model = make_model(tmp_path / "model", "t5", "seq2seq")
    plan = priced_plan(tmp_path, model, "seq2seq", rows=rows, method="lora", rank=4, recipe={"max_steps": 3})
    _, report, _ = trained(plan, tmp_path)
    assert report.measured_shape is not None
    assert (report.measured_shape["sequence_length"], report.measured_shape["target_length"]) == (24, 16)
