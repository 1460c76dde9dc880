"""Real runs of a tiny Llama on a CPU, in this process. Static bytes are worked by hand from the config in factories.

Per layer, in weights: q and o 64 x 64, k and v 32 x 64, gate and up 128 x 64, down 64 x 128 = 36,864 in linears; two
norms of 64. Two layers, a final norm of 64, and 300 x 64 each for embeddings and head: 112,448.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import (
    make_plan,
    make_setup,
    make_tiny_llama,
    pin,
    prompt_completion_rows,
    write_jsonl,
)
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Evaluated, Event, Failed, Measured, Saved, Step, parse_event
from vramplan.executor.process import Stop
from vramplan.executor.worker import Work
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.training_setup import Precision

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]

WEIGHTS = 112_448 * 4
LINEARS = 73_728
ADAPTER = 16_384 * 4  # r (in + out) over 14 linears at r = 8
NF4_WEIGHTS = LINEARS // 2 + (112_448 - LINEARS) * 4
# absmax as one byte a block of 64; per linear: 16 code values, 256 of the nested code, a nested absmax and an offset
NF4_STATE = LINEARS // 64 + 14 * 4 * (16 + 256 + 1 + 1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows())
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data)}


def trained(plan: Plan, folder: Path, stop: Stop | None = None) -> tuple[ExitCode, RunReport, list[Event]]:
    events: list[Event] = []
    code = Work(plan, Attempt(), folder, events.append, stop or Stop()).run()
    return code, RunReport.model_validate_json((folder / "report.json").read_text()), events


CASES = {
    "full": (Full(), {}, {"weights": WEIGHTS, "gradients": WEIGHTS, "optimizer": 2 * WEIGHTS + 21 * 4}),
    "full, checkpointing, stock loss": (
        Full(),
        {"gradient_checkpointing": True, "loss": "standard"},
        {"weights": WEIGHTS, "gradients": WEIGHTS, "optimizer": 2 * WEIGHTS + 21 * 4},
    ),
    "lora": (
        Lora(r=8),
        {},
        {"weights": WEIGHTS, "adapter": ADAPTER, "gradients": ADAPTER, "optimizer": 2 * ADAPTER + 28 * 4},
    ),
    "lora, checkpointing, sgd": (
        Lora(r=8),
        {"gradient_checkpointing": True, "optimizer": "sgd"},
        {"weights": WEIGHTS, "adapter": ADAPTER, "gradients": ADAPTER, "optimizer": 0},
    ),
    "qlora": (
        Qlora(r=8),
        {},
        {
            "weights": NF4_WEIGHTS,
            "quantization_state": NF4_STATE,
            "adapter": ADAPTER,
            "gradients": ADAPTER,
            "optimizer": 2 * ADAPTER + 28 * 4,
        },
    ),
    "qlora, checkpointing, bf16 adapter": (
        Qlora(r=8),
        {"gradient_checkpointing": True, "precision": Precision(dtype="fp32", adapter_dtype="bf16")},
        {
            "weights": NF4_WEIGHTS,
            "quantization_state": NF4_STATE,
            "adapter": ADAPTER // 2,
            "gradients": ADAPTER // 2,
            "optimizer": ADAPTER + 28 * 4,
        },
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_method_trains_learns_and_leaves_evidence(name: str, world: dict[str, Any], tmp_path: Path) -> None:
    method, changes, static = CASES[name]
    rate = 0.5 if changes.get("optimizer") == "sgd" else 1e-2
    plan = make_plan(tmp_path, setup=make_setup(method, **changes), learning_rate=rate, **world)
    code, report, events = trained(plan, tmp_path)

    assert (code, report.status, report.steps) == (ExitCode.OK, "done", 10)
    assert report.plan_fingerprint == plan.fingerprint
    assert {"buffers": 64, "quantization_state": 0, "adapter": 0, **static} == report.static

    losses = [event.loss for event in events if isinstance(event, Step)]
    assert len(losses) == 10
    assert losses[0] == report.first_loss == pytest.approx(5.7, abs=0.3)  # ln 300, an untrained model's
    assert losses[-1] is not None
    assert losses[-1] < losses[0] - 0.1  # type: ignore[operator]

    peaks = {event.phase: event.allocated_bytes for event in events if isinstance(event, Measured)}
    assert set(peaks) == {"forward", "loss", "backward", "optimizer_step"}
    between_steps = sum(report.static.values()) - report.static["gradients"]
    assert all(peak is not None and peak > between_steps for peak in peaks.values())
    assert peaks["optimizer_step"] >= sum(report.static.values())  # type: ignore[operator]
    assert report.peak_allocated_bytes == max(peak for peak in peaks.values() if peak)

    assert all(parse_event(event.model_dump_json(exclude_none=True)) == event for event in events)
    saved = tmp_path / "output" / ("model.safetensors" if method.kind == "full" else "adapter_model.safetensors")
    assert saved.exists()
    assert report.saved_bytes is not None
    assert report.saved_bytes > saved.stat().st_size


def test_the_measured_step_holds_the_longest_rows(world: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"text": "short"}] * 20 + [{"text": "one two three four five six seven eight nine ten " * 3}] * 8
    data = pin(write_jsonl(tmp_path / "train.jsonl", rows))
    setup = make_setup(micro_batch_size=2, gradient_accumulation_steps=2)
    plan = make_plan(tmp_path, model_path=world["model_path"], data=data, setup=setup, sequence_length=24, max_steps=2)
    _, report, _ = trained(plan, tmp_path)
    assert report.measured_shape == {
        "micro_batch_size": 2,
        "sequence_length": 24,
        "valid_labels": 2 * 23,
        "padding_tokens": 0,
        "gradient_accumulation_steps": 2,
    }


def test_both_losses_are_the_same_loss(world: dict[str, Any], tmp_path: Path) -> None:
    reports = []
    for loss in ("fused", "standard"):
        folder = tmp_path / loss
        folder.mkdir()
        setup = make_setup(Full(), loss=loss, gradient_accumulation_steps=2)
        reports.append(trained(make_plan(folder, setup=setup, max_steps=3, **world), folder)[1])
    assert reports[0].first_loss == pytest.approx(reports[1].first_loss, abs=1e-5)
    assert reports[0].last_loss == pytest.approx(reports[1].last_loss, abs=1e-4)


def test_evaluating_first_changes_nothing_about_4_bit_training(world: dict[str, Any], tmp_path: Path) -> None:
    reports = []
    for held_out in (None, world["data"].path):
        folder = tmp_path / str(bool(held_out))
        folder.mkdir()
        plan = make_plan(folder, setup=make_setup(Qlora(r=8)), eval_data=held_out, max_steps=3, **world)
        _, report, events = trained(plan, folder)
        reports.append(report)
    assert reports[0].last_loss == reports[1].last_loss
    assert reports[0].static == reports[1].static
    assert [event.step for event in events if isinstance(event, Evaluated)] == [0, 3]
    assert reports[1].eval_loss_before == pytest.approx(5.7, abs=0.3)
    assert reports[1].eval_loss_after is not None
    assert reports[1].eval_loss_after < reports[1].eval_loss_before  # type: ignore[operator]


def test_conversations_train_on_the_last_answer_alone(world: dict[str, Any], tmp_path: Path) -> None:
    chats = [
        {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]}
        for row in prompt_completion_rows()
    ]
    data = pin(write_jsonl(tmp_path / "train.jsonl", chats))
    plan = make_plan(tmp_path, model_path=world["model_path"], data=data, sequence_length=64, max_steps=1)
    _, report, _ = trained(plan, tmp_path)
    shape = report.measured_shape
    assert shape is not None
    assert 0 < shape["valid_labels"] < shape["micro_batch_size"] * (shape["sequence_length"] - 1)


@pytest.mark.parametrize(("method", "accumulation"), [(Full(), 3), (Lora(r=8), 1)])
def test_the_tracker_and_the_allocator_agree(
    method: Any, accumulation: int, world: dict[str, Any], tmp_path: Path
) -> None:
    setup = make_setup(method, gradient_checkpointing=True, gradient_accumulation_steps=accumulation)
    data = pin(write_jsonl(tmp_path / "train.jsonl", [{"text": "every row is as long as the others " * 9}] * 80))
    plan = make_plan(tmp_path, model_path=world["model_path"], data=data, setup=setup, max_steps=5)
    events: list[Event] = []
    assert Work(plan, Attempt(track=True), tmp_path, events.append, Stop()).run() is ExitCode.OK
    measured = {event.phase: event for event in events if isinstance(event, Measured) and event.tracked_bytes}
    assert set(measured) == {"forward", "loss", "backward", "optimizer_step"}
    for name, event in measured.items():
        # What no dispatch mode sees: the generator's state (5,056 bytes) that checkpointing keeps a layer, LoRA's
        # scaling as an 8-byte scalar a linear, and the loop's own few scalars.
        unseen = event.allocated_bytes - event.tracked_bytes  # type: ignore[operator]
        assert 0 <= unseen <= 2 * 5056 + 14 * 8 + 16, name


def test_asking_to_stop_saves_where_the_run_is(world: dict[str, Any], tmp_path: Path) -> None:
    stop = Stop()
    events: list[Event] = []

    def emit(event: Event) -> None:
        events.append(event)
        stop.requested = stop.requested or (isinstance(event, Step) and event.step == 2)

    code = Work(make_plan(tmp_path, **world), Attempt(), tmp_path, emit, stop).run()
    report = json.loads((tmp_path / "report.json").read_text())
    assert (code, report["status"], report["steps"]) == (ExitCode.INTERRUPTED, "interrupted", 3)
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event.step for event in saved] == [1, 3]
    assert (Path(saved[1].path) / "trainer_state.json").exists()
    assert isinstance(events[-1], Failed)
    assert events[-1].interrupted


def test_running_out_of_memory_names_the_phase_and_keeps_the_evidence(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    calls: list[int] = []

    def exhausted(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return real(*args, **options)

    real = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", exhausted)
    code, report, events = trained(make_plan(tmp_path, **world), tmp_path)
    assert (code, report.status, report.steps) == (ExitCode.FAILED, "failed", 4)
    assert isinstance(events[-1], Failed)
    assert "step 5" in events[-1].message
    assert events[-1].remedy
    assert report.failure == events[-1].message
    assert report.static["adapter"] == ADAPTER
    assert report.peak_allocated_bytes is not None


def test_weights_that_are_not_safetensors_are_not_loaded(world: dict[str, Any], tmp_path: Path) -> None:
    import shutil

    import torch

    model = tmp_path / "model"
    shutil.copytree(world["model_path"], model)
    (model / "model.safetensors").unlink()
    torch.save({}, model / "pytorch_model.bin")
    code, report, _ = trained(make_plan(tmp_path, model_path=model, data=world["data"]), tmp_path)
    assert (code, report.status, report.steps) == (ExitCode.FAILED, "failed", 0)
    assert "safetensors" in str(report.failure)


def test_rows_with_nothing_left_to_learn_are_said_or_refused(world: dict[str, Any], tmp_path: Path) -> None:
    rows = [{"prompt": "a very long question " * 9, "completion": "yes"}] * 8
    data = pin(write_jsonl(tmp_path / "train.jsonl", rows))
    code, report, _ = trained(make_plan(tmp_path, model_path=world["model_path"], data=data), tmp_path)
    assert (code, report.steps) == (ExitCode.FAILED, 0)
    assert "no row" in str(report.failure)
    assert "32 tokens" in str(report.failure)


# 8-bit states: 84,736 elements in tensors of 4,096 and more, an fp32 absmax per 256 of them, and a shared code of 256;
# the other 27,712 (key and value projections, norms, and under Trainer the embeddings) stay fp32.
# Adafactor: a row and a column per matrix (the norms in full) and one RMS a tensor.
OPTIMIZER_BYTES = {
    "adamw_torch_fused": 2 * WEIGHTS + 21 * 4,
    "adamw_8bit": 2 * (84_736 + 331 * 4 + 256 * 4 + 27_712 * 4),
    "lion_8bit": 84_736 + 331 * 4 + 256 * 4 + 27_712 * 4,
    "adafactor": 4 * (2 * (128 + 96 + 96 + 128 + 3 * 192) + 2 * (300 + 64) + 5 * 64 + 21),
}


@pytest.mark.parametrize("optimizer", OPTIMIZER_BYTES)
def test_the_optimizers_states_are_counted_to_the_byte(optimizer: str, world: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(Full(), optimizer=optimizer)
    plan = make_plan(tmp_path, setup=setup, max_steps=2, learning_rate=1e-3, **world)
    code, report, _ = trained(plan, tmp_path)
    assert (code, report.steps) == (ExitCode.OK, 2)
    assert report.static["optimizer"] == OPTIMIZER_BYTES[optimizer]


PRECISIONS = {
    "bf16 base, fp32 adapter": (Lora(r=8), Precision(dtype="bf16", adapter_dtype="fp32"), WEIGHTS // 2, ADAPTER),
    "bf16 base and autocast, bf16 adapter": (
        Lora(r=8),
        Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="bf16"),
        WEIGHTS // 2,
        ADAPTER // 2,
    ),
    # trl makes adapters on quantised bases bf16; the plan's word counts
    "nf4 base, fp32 adapter": (
        Qlora(r=8),
        Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32"),
        LINEARS // 2 + (112_448 - LINEARS) * 2,
        ADAPTER,
    ),
    # magnitudes, one fp32 per output of every linear, stay fp32
    "nf4 base, bf16 DoRA": (
        Qlora(r=8, use_dora=True),
        Precision(dtype="bf16", adapter_dtype="bf16"),
        LINEARS // 2 + (112_448 - LINEARS) * 2,
        ADAPTER // 2 + 2 * 4 * (64 + 32 + 32 + 64 + 128 + 128 + 64),
    ),
}


@pytest.mark.parametrize("name", PRECISIONS)
def test_every_tensor_has_the_planned_dtype(name: str, world: dict[str, Any], tmp_path: Path) -> None:
    method, precision, weights, adapter = PRECISIONS[name]
    plan = make_plan(tmp_path, setup=make_setup(method, precision=precision), max_steps=2, **world)
    code, report, _ = trained(plan, tmp_path)
    assert (code, report.static["weights"], report.static["adapter"]) == (ExitCode.OK, weights, adapter)
    assert report.static["gradients"] == adapter


def test_packed_rows_fill_the_planned_length(world: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(tmp_path, setup=make_setup(packing=True, micro_batch_size=1), max_steps=2, **world)
    code, report, _ = trained(plan, tmp_path)
    assert code is ExitCode.OK
    assert report.measured_shape is not None
    assert report.measured_shape["sequence_length"] > 24
