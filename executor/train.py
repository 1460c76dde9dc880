"""One planned run, start to finish, in this process: rows, model, trainer, steps, final weights, evidence."""

import time
from collections.abc import Callable
from dataclasses import dataclass
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
"""Step 1 creates the optimizer's states and step 2 warms a profiler, so step 3 is the first that tells the truth."""


@dataclass
class TrainingRun:
    """A plan being carried out.

    Args:
        evidence: filled in as facts become known.
        emit: told what happens.
        stop: looked at after every step.
        track: also follow one step with the tracker that makes memory programs.
    """

    plan: Plan
    evidence: Evidence
    emit: Callable[[Event], None]
    stop: Stop
    track: bool = False

    def run(self) -> None:
        """Train as planned.

        Raises:
            VramplanError: something a person can mend; anything else is the libraries' own failure.
        """
        check_supported(self.plan)
        train_rows, eval_rows = self._read_rows()
        self._progress("loading the training libraries")
        trainer = self._make_trainer(train_rows, eval_rows)
        try:
            self._check_trainer(trainer, train_rows)
            self._train(trainer)
        finally:
            trainer.meter.close()
            self.evidence.peaks = trainer.meter.peaks() or self.evidence.peaks

    def _read_rows(self) -> tuple[Rows, Rows | None]:
        path = self.plan.data.path if self.plan.data else self.plan.recipe.data
        if path is None:
            raise BadDataError("the plan names no training file", remedy="re-plan with --data FILE")
        held_out = self.plan.recipe.eval_data
        return read_rows(Path(path)), read_rows(Path(held_out)) if held_out else None

    def _make_trainer(self, train_rows: Rows, eval_rows: Rows | None) -> Any:
        from transformers import set_seed
        from transformers.trainer_callback import PrinterCallback

        from vramplan.executor import machine
        from vramplan.executor.marks import Marks
        from vramplan.executor.telemetry import Telemetry
        from vramplan.executor.trainer import PlannedTrainer, StandardLossTrainer
        from vramplan.executor.training_args import training_args

        plan, setup = self.plan, self.plan.setup
        device = machine.use_device(plan.device)
        self.evidence.environment = machine.environment(device)
        meter, self.evidence.measured_by = machine.make_meter(device, MEASURED_STEP, track=self.track)
        marks = Marks(meter, self.evidence.enter)
        marks.enter("load")
        set_seed(plan.recipe.seed)
        tokenizer, model = self._load(device, train_rows)
        self._progress("tokenising")
        telemetry = Telemetry(self.emit, self.evidence, meter, self.stop)
        longest = (MEASURED_STEP + self.track) * setup.micro_batch_size * setup.gradient_accumulation_steps
        trainer = (StandardLossTrainer if setup.loss == "standard" else PlannedTrainer)(
            marks=marks,
            meter=meter,
            head_rows=longest,
            model=model,
            args=training_args(
                plan,
                on_cuda=device.startswith("cuda"),
                completions=data.has_completions(train_rows),
                evaluates=eval_rows is not None,
            ),
            train_dataset=self._dataset(train_rows),
            eval_dataset=None if eval_rows is None else self._dataset(eval_rows),
            processing_class=tokenizer,
            callbacks=[telemetry],
        )
        trainer.remove_callback(PrinterCallback)
        telemetry.trainer = trainer
        if setup.method.kind != "full":
            lora.set_adapter_dtype(trainer.model, setup.precision.adapter_dtype)
        marks.watch(trainer.model)
        return trainer

    def _load(self, device: str, rows: Rows) -> tuple[Any, Any]:
        model = self.plan.model
        self._progress(f"loading {model.repo_id}")
        tokenizer = load.load_tokenizer(model)
        data.check_chat_template(rows, tokenizer, model.repo_id)
        return tokenizer, load.load_model(model, self.plan.setup, device_map={"": device})

    def _dataset(self, rows: Rows) -> Any:
        return data.make_dataset(rows, completion_only=self.plan.recipe.completion_only)

    def _check_trainer(self, trainer: Any, rows: Rows) -> None:
        """What can differ from the plan once everything is loaded."""
        trainable = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
        planned, limit = self.plan.model.trainable_params, self.plan.workload.sequence_length
        if trainable != planned:
            self._warn(f"{trainable:,} parameters train; the plan has {planned:,}")
        left = len(trainer.train_dataset)
        if left == 0:
            raise BadDataError(
                f"no row of {rows.path} has a token to learn within {limit} tokens",
                remedy="re-plan with a larger --sequence-length, or shorten the prompts",
            )
        if left < len(rows.rows) and not self.plan.setup.packing:
            self._warn(f"{len(rows.rows) - left} rows have nothing to learn within {limit} tokens and are left out")

    def _train(self, trainer: Any) -> None:
        if trainer.eval_dataset is not None:
            self.evidence.eval_loss_before = trainer.evaluate()["eval_loss"]
        trainer.train()
        if self.stop.requested:
            return
        if trainer.eval_dataset is not None:
            self.evidence.eval_loss_after = trainer.evaluate()["eval_loss"]
        self._save(trainer)

    def _save(self, trainer: Any) -> None:
        self._progress("saving")
        trainer.marks.enter("save")
        folder = self.plan.recipe.output_dir
        trainer.save_model(folder)
        size_bytes = folder_bytes(folder, but="checkpoint-")
        self.evidence.saved_bytes = size_bytes
        self.emit(Saved(time=time.time(), step=trainer.state.global_step, path=folder, size_bytes=size_bytes))

    def _progress(self, what: str) -> None:
        self.emit(Progress(time=time.time(), what=what))

    def _warn(self, message: str) -> None:
        self.emit(Warned(time=time.time(), message=message))
