"""One planned run, start to finish, in this process: rows, model, trainer, steps, final weights, evidence."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vramplan.executor import data, load
from vramplan.executor.events import Event, Progress, Saved, Warned
from vramplan.executor.evidence import Evidence
from vramplan.executor.methods import lora
from vramplan.executor.process import Stop, folder_bytes
from vramplan.executor.rows import Rows, read_rows
from vramplan.executor.supported import check_supported
from vramplan.planner.errors import BadDataError
from vramplan.planner.plan import Plan

MEASURED_STEP = 3
"""Step 1 creates the optimizer's states and step 2 warms the profiler, so step 3 is the first that tells the truth."""

Emit = Callable[[Event], None]


def read_training_rows(plan: Plan) -> tuple[Rows, Rows | None]:
    """The training rows and the held-out ones, checked; paths as they are in the plan.

    Raises:
        BadDataError: no training file, or an unusable row.
    """
    path = plan.data.path if plan.data else plan.recipe.data
    if path is None:
        raise BadDataError("the plan names no training file", remedy="re-plan with --data FILE")
    return read_rows(Path(path)), read_rows(Path(plan.recipe.eval_data)) if plan.recipe.eval_data else None


def run_training(plan: Plan, evidence: Evidence, emit: Emit, stop: Stop, *, track: bool = False) -> None:
    """Train as planned; facts go into ``evidence`` and events to ``emit`` as they happen.

    Args:
        track: also follow one step with the tracker that makes memory programs.

    Raises:
        VramplanError: something a person can mend; anything else is the libraries' own failure.
    """
    check_supported(plan)
    train_rows, eval_rows = read_training_rows(plan)

    emit(Progress(time=time.time(), what="loading the training libraries"))
    trainer = _build_trainer(plan, train_rows, eval_rows, evidence, emit, stop, track)
    try:
        _train(trainer, plan, evidence, emit, stop)
    finally:
        trainer.meter.close()
        evidence.peaks = trainer.meter.peaks() or evidence.peaks


def _train(trainer: Any, plan: Plan, evidence: Evidence, emit: Emit, stop: Stop) -> None:
    if trainer.eval_dataset is not None:
        evidence.eval_loss_before = trainer.evaluate()["eval_loss"]
    trainer.train()
    if stop.requested:
        return
    if trainer.eval_dataset is not None:
        evidence.eval_loss_after = trainer.evaluate()["eval_loss"]
    _save(trainer, plan, evidence, emit)


def _build_trainer(
    plan: Plan,
    train_rows: Rows,
    eval_rows: Rows | None,
    evidence: Evidence,
    emit: Emit,
    stop: Stop,
    track: bool,
) -> Any:
    from transformers import set_seed
    from transformers.trainer_callback import PrinterCallback

    from vramplan.executor.machine import environment, make_meter, use_device
    from vramplan.executor.marks import Marks
    from vramplan.executor.telemetry import Telemetry
    from vramplan.executor.trainer import PlannedTrainer, StandardLossTrainer
    from vramplan.executor.training_args import training_args

    device = use_device(plan.device)
    evidence.environment = environment(device)
    meter, evidence.measured_by = make_meter(device, MEASURED_STEP, track=track)
    set_seed(plan.recipe.seed)
    emit(Progress(time=time.time(), what=f"loading {plan.model.repo_id}"))
    tokenizer = load.load_tokenizer(plan.model)
    data.check_chat_template(train_rows, tokenizer, plan.model.repo_id)
    model = load.load_model(plan.model, plan.setup, device_map={"": device})
    _check_params(plan, model, emit)

    emit(Progress(time=time.time(), what="tokenising"))
    completion_only = plan.recipe.completion_only
    marks = Marks(meter, evidence.enter)
    telemetry = Telemetry(emit, evidence, meter, stop)
    rows_per_step = plan.setup.micro_batch_size * plan.setup.gradient_accumulation_steps
    trainer_class = StandardLossTrainer if plan.setup.loss == "standard" else PlannedTrainer
    trainer = trainer_class(
        marks=marks,
        meter=meter,
        head_rows=(MEASURED_STEP + track) * rows_per_step,
        model=model,
        args=training_args(
            plan,
            on_cuda=device.startswith("cuda"),
            completions=data.has_completions(train_rows),
            evaluates=eval_rows is not None,
        ),
        train_dataset=data.make_dataset(train_rows, completion_only=completion_only),
        eval_dataset=None if eval_rows is None else data.make_dataset(eval_rows, completion_only=completion_only),
        processing_class=tokenizer,
        callbacks=[telemetry],
    )
    trainer.remove_callback(PrinterCallback)
    telemetry.trainer = trainer
    if plan.setup.method.kind != "full":
        lora.set_adapter_dtype(trainer.model, plan.setup.precision.adapter_dtype)
    marks.watch(trainer.model)
    _check_rows_left(plan, train_rows, len(trainer.train_dataset), emit)
    return trainer


def _check_params(plan: Plan, model: Any, emit: Emit) -> None:
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    if trainable != plan.model.trainable_params:
        planned = plan.model.trainable_params
        emit(Warned(time=time.time(), message=f"{trainable:,} parameters train; the plan has {planned:,}"))


def _check_rows_left(plan: Plan, rows: Rows, left: int, emit: Emit) -> None:
    limit = plan.workload.sequence_length
    if left == 0:
        raise BadDataError(
            f"no row of {rows.path} has a token to learn within {limit} tokens",
            remedy="re-plan with a larger --sequence-length, or shorten the prompts",
        )
    if left < len(rows.rows) and not plan.setup.packing:
        message = f"{len(rows.rows) - left} rows have nothing to learn within {limit} tokens and are left out"
        emit(Warned(time=time.time(), message=message))


def _save(trainer: Any, plan: Plan, evidence: Evidence, emit: Emit) -> None:
    emit(Progress(time=time.time(), what="saving"))
    trainer.marks.enter("save")
    folder = plan.recipe.output_dir
    trainer.save_model(folder)
    evidence.saved_bytes = folder_bytes(folder, but="checkpoint-")
    step = trainer.state.global_step
    emit(Saved(time=time.time(), step=step, path=folder, size_bytes=evidence.saved_bytes))
