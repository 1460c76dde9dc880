"""What a worker promises, in this process on a tiny Llama: it runs what was planned or says what differs, and a
checkpoint gives back the same run, whatever the method, and runs no code."""

import errno
import os
import pickle
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import (
    counted,
    make_budget,
    make_plan,
    make_setup,
    make_tiny_llama,
    pin,
    prompt_completion_rows,
    write_jsonl,
)
from vramplan.executor import saving
from vramplan.executor.attempt import Attempt
from vramplan.executor.checkpoints import SAVING, SEAL, seal
from vramplan.executor.events import Event, Failed, Progress, Saved, Step, Warned
from vramplan.executor.evidence import VERIFICATION
from vramplan.executor.process import Stop
from vramplan.executor.worker import Work
from vramplan.planner.adapters.plan_files import read_report
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.plan import Plan
from vramplan.planner.training_setup import Precision

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows())
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data)}


def worked(plan: Plan, folder: Path, attempt: Attempt | None = None) -> tuple[ExitCode, list[Event]]:
    events: list[Event] = []
    attempt = attempt or Attempt()
    return Work(attempt.plan_of(plan, folder), attempt, folder, events.append, Stop()).run(), events


def off_by_eight(world: dict[str, Any], folder: Path, **recipe: Any) -> Plan:
    _, static = counted(world["model_path"], make_setup())
    budget = make_budget(static=static | {"weights": static["weights"] + 8})
    return make_plan(folder, budget=budget, trainable_params=16_384, **world, **recipe)


def test_eight_bytes_too_few_stop_the_run_before_its_first_step(world: dict[str, Any], tmp_path: Path) -> None:
    code, events = worked(off_by_eight(world, tmp_path), tmp_path)
    last = events[-1]
    assert (code, isinstance(last, Failed)) == (ExitCode.FAILED, True)
    assert "weights: 449,792 bytes in memory, 449,800 planned (-8)" in last.message  # type: ignore[union-attr]
    assert "--allow-drift loaded" in str(last.remedy)  # type: ignore[union-attr]
    assert not any(isinstance(event, Step) for event in events)


def test_a_person_may_accept_the_difference_and_is_told_it(world: dict[str, Any], tmp_path: Path) -> None:
    plan = off_by_eight(world, tmp_path, max_steps=1)
    code, events = worked(plan, tmp_path, Attempt(accept=("loaded",)))
    assert code is ExitCode.OK
    assert any("449,800 planned" in event.message for event in events if isinstance(event, Warned))


def test_parameters_that_train_are_counted(world: dict[str, Any], tmp_path: Path) -> None:
    code, events = worked(make_plan(tmp_path, trainable_params=99, **world), tmp_path)
    assert code is ExitCode.FAILED
    assert "16,384 parameters train, 99 planned" in events[-1].message  # type: ignore[union-attr]


def test_no_gradient_anywhere_stops_the_run_at_its_first_step(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.Tensor, "backward", lambda *args, **options: None)
    code, events = worked(make_plan(tmp_path, **world), tmp_path)
    assert code is ExitCode.FAILED
    assert "no trainable parameter has a gradient" in events[-1].message  # type: ignore[union-attr]


@pytest.mark.parametrize(("attention", "kernel"), [("sdpa", "flash (CPU)"), ("eager", "softmax, step by step")])
def test_the_attention_kernel_that_ran_is_told(
    attention: str, kernel: str, world: dict[str, Any], tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, setup=make_setup(attention=attention), max_steps=1, **world)
    assert worked(plan, tmp_path)[0] is ExitCode.OK
    assert read_report(tmp_path / "report.json").environment["attention"] == kernel


def test_more_than_the_upper_bound_is_said_once(world: dict[str, Any], tmp_path: Path) -> None:
    _, static = counted(world["model_path"], make_setup())
    plan = make_plan(tmp_path, budget=make_budget(1, static), trainable_params=16_384, max_steps=3, **world)
    _, events = worked(plan, tmp_path)
    assert len([event for event in events if isinstance(event, Warned) and "upper bound" in event.message]) == 1


def test_verification_measures_every_phase_and_leaves_only_its_report(world: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(tmp_path, eval_data=world["data"].path, **world)
    code, _ = worked(plan, tmp_path, Attempt(goal="verify"))
    assert code is ExitCode.OK
    report = read_report(tmp_path / VERIFICATION)
    assert (report.goal, report.steps, report.plan_fingerprint) == ("verify", 3, plan.fingerprint)
    measured = {phase.name for phase in report.phases if phase.allocated_bytes}
    assert measured == {"forward", "loss", "backward", "optimizer_step", "evaluation", "save"}
    assert report.saved_bytes is not None
    assert report.saved_bytes > report.static["adapter"] + report.static["optimizer"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [VERIFICATION]


METHODS = {
    "full": make_setup(Full(), gradient_checkpointing=True),
    "lora with dropout and 8-bit states": make_setup(Lora(r=8, lora_dropout=0.2), optimizer="adamw_8bit"),
    "qlora, bf16 adapter": make_setup(Qlora(r=8), precision=Precision(dtype="fp32", adapter_dtype="bf16")),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_to_the_same_bits(name: str, world: dict[str, Any], tmp_path: Path) -> None:
    plan = make_plan(tmp_path, setup=METHODS[name], max_steps=5, save_steps=2, **world)
    assert worked(plan, tmp_path)[0] is ExitCode.OK
    whole = read_report(tmp_path / "report.json")
    result = next((tmp_path / "output").glob("*model.safetensors"))
    weights = result.read_bytes()
    result.unlink()
    code, _ = worked(plan, tmp_path, Attempt(resume_from=str(tmp_path / "output" / "checkpoint-4")))
    report = read_report(tmp_path / "report.json")
    assert (code, report.resumed_from_step, report.steps) == (ExitCode.OK, 4, 5)
    assert report.losses == whole.losses
    assert (report.first_loss, report.static, report.phases) == (whole.first_loss, whole.static, whole.phases)
    assert result.read_bytes() == weights


class _Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("name", ["optimizer.pt", "rng_state.pth", "scheduler.pt"])
def test_a_pickle_that_runs_code_is_refused_even_under_a_valid_seal(
    name: str, world: dict[str, Any], tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, max_steps=4, save_steps=2, **world)
    worked(plan, tmp_path)
    checkpoint = tmp_path / "output" / "checkpoint-2"
    shutil.copytree(checkpoint, tmp_path / "output" / SAVING / "checkpoint-2")
    written = tmp_path / "output" / SAVING / "checkpoint-2"
    (written / SEAL).unlink()
    (written / name).write_bytes(pickle.dumps(_Runs(tmp_path / "it ran")))
    seal(written, read_report(tmp_path / "report.json"), 2)
    code, events = worked(plan, tmp_path, Attempt(resume_from=str(checkpoint)))
    assert (code, isinstance(events[-1], Failed)) == (ExitCode.FAILED, True)
    assert not (tmp_path / "it ran").exists()


def test_a_disk_that_fills_up_while_saving_is_waited_for(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    real, failures = torch.save, iter([True, True])

    def full(*args: Any, **options: Any) -> None:
        if next(failures, False):
            raise RuntimeError(
                "[enforce fail at inline_container.cc:676] PytorchStreamWriter failed writing file data/1"
            )
        real(*args, **options)

    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(saving, "AGAIN_SECONDS", 0.01)
    monkeypatch.setattr("vramplan.executor.disk.POLL_SECONDS", 0.01)
    code, events = worked(make_plan(tmp_path, max_steps=2, **world), tmp_path)
    assert code is ExitCode.OK
    assert any(event.what.startswith("paused") for event in events if isinstance(event, Progress))
    assert [event.step for event in events if isinstance(event, Saved)] == [1, 2]
    assert (tmp_path / "output" / "checkpoint-1" / SEAL).exists()
    assert not (tmp_path / "output" / SAVING).exists()


def test_a_full_disk_pauses_the_run_and_is_pruned_first(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter([10**12] * 4 + [0] * 4)

    def free(folder: Path) -> int:
        return next(looks, 10**12)

    monkeypatch.setattr(saving, "free_bytes", free)
    monkeypatch.setattr("vramplan.executor.disk.free_bytes", free)
    monkeypatch.setattr("vramplan.executor.disk.POLL_SECONDS", 0.01)
    code, events = worked(make_plan(tmp_path, max_steps=3, save_steps=1, **world), tmp_path)
    assert code is ExitCode.OK
    paused = [event.what for event in events if isinstance(event, Progress) and event.what.startswith("paused")]
    assert len(paused) == 1
    assert "free some space to go on" in paused[0]
    saved = [event for event in events if isinstance(event, Saved)]
    assert [event.step for event in saved] == [1, 2, 3, 3]
    assert all(event.seconds is not None and event.free_bytes for event in saved[:-1])


def test_told_to_stop_while_the_disk_is_full_it_stops(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "free_bytes", lambda folder: 0)
    monkeypatch.setattr("vramplan.executor.disk.free_bytes", lambda folder: 0)
    monkeypatch.setattr("vramplan.executor.disk.POLL_SECONDS", 0.01)
    stop, events = Stop(), list[Event]()

    def emit(event: Event) -> None:
        events.append(event)
        stop.requested = stop.requested or (isinstance(event, Progress) and event.what.startswith("paused"))

    plan = make_plan(tmp_path, **world)
    assert Work(plan, Attempt(), tmp_path, emit, stop).run() is ExitCode.INTERRUPTED
    assert read_report(tmp_path / "report.json").steps == 1


def test_a_clock_that_jumps_changes_nothing_but_the_times_told(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A day back after the second step, two days on after the third: steps, rates and checkpoints follow a clock that
    nobody sets."""
    real, jump, events = time.time, [0.0], list[Event]()
    monkeypatch.setattr(time, "time", lambda: real() + jump[0])

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, Step):
            jump[0] = {2: -86400.0, 3: 86400.0}.get(event.step, jump[0])

    plan = make_plan(tmp_path, max_steps=5, **world)
    assert Work(plan, Attempt(), tmp_path, emit, Stop()).run() is ExitCode.OK
    steps = [event for event in events if isinstance(event, Step)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5]
    assert steps[2].time < steps[1].time < steps[3].time
    assert all(event.tokens_per_second and event.tokens_per_second > 0 for event in steps)
    assert all(event.eta_seconds is not None and 0 <= event.eta_seconds < 3600 for event in steps)
    assert [event.step for event in events if isinstance(event, Saved)] == [1, 5]
    report = read_report(tmp_path / "report.json")
    assert 0 < report.seconds < 3600
    assert report.started_at <= report.ended_at


def test_a_training_file_lost_after_preflight_is_named(world: dict[str, Any], tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows())
    plan = make_plan(tmp_path, model_path=world["model_path"], data=pin(data))
    data.unlink()
    code, events = worked(plan, tmp_path)
    last = events[-1]
    assert code is not ExitCode.OK
    assert isinstance(last, Failed)
    assert str(data) in last.message
    assert last.remedy
    assert "Traceback" not in last.message


def test_a_folder_that_becomes_read_only_is_named_and_the_run_can_go_on(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def refused(content: Any, path: Any, *args: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", refused)
        code, events = worked(make_plan(tmp_path, max_steps=2, **world), tmp_path)
    last = events[-1]
    assert (code, isinstance(last, Failed)) == (ExitCode.FAILED, True)
    assert last.message.startswith("cannot write ")  # type: ignore[union-attr]
    assert last.message.endswith("while saving: Read-only file system")  # type: ignore[union-attr]
    assert "--resume" in str(last.remedy)  # type: ignore[union-attr]
    assert read_report(tmp_path / "report.json").status == "failed"
