"""One process's share of a planned run: rows, model, trainer, steps, final weights, evidence."""

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vramplan.executor import data, load
from vramplan.executor.asked import Asked
from vramplan.executor.attempt import MEASURED_STEP, Attempt
from vramplan.executor.checkpoints import read_seal
from vramplan.executor.deepspeed_run import NO_CHECKPOINTS, loaded_whole
from vramplan.executor.events import Event, Progress, Saved, Warned
from vramplan.executor.evidence import Evidence
from vramplan.executor.folder_size import folder_bytes
from vramplan.executor.phases import PhaseMeter
from vramplan.executor.process import Stop
from vramplan.executor.ranks import Ranks
from vramplan.executor.rows import planned_rows
from vramplan.executor.sensors import find_sensors
from vramplan.executor.supported import check_supported
from vramplan.planner.deepspeed import stage_of
from vramplan.planner.errors import BadDataError
from vramplan.planner.plan import Plan
from vramplan.planner.rows import Rows


@dataclass
class TrainingRun:
    """A plan being carried out.

    Args:
        plan: with the attempt's changes (``Attempt.plan_of``).
        evidence: filled in as facts become known.
        emit: told what happens.
        stop: looked at after every step.
        ranks: this process among those of the run.
        asked: what whoever watches asks for between steps.
    """

    plan: Plan
    attempt: Attempt
    evidence: Evidence
    emit: Callable[[Event], None]
    stop: Stop
    ranks: Ranks = field(default_factory=Ranks)
    asked: Asked = field(default_factory=Asked)

    def run(self) -> None:
        """Train, or verify, as planned.

        Raises:
            VramplanError: something a person can mend; anything else is the libraries' own failure.
        """
        check_supported(self.plan)
        if stage_of(self.plan.setup) and self.attempt.goal == "run":
            self._warn(NO_CHECKPOINTS)
        train_rows, eval_rows = self._read_rows()
        self._progress("loading the training libraries")
        trainer = self._make_trainer(train_rows, eval_rows)
        try:
            self._check_rows(trainer, train_rows)
            if self.attempt.goal == "verify":
                self._verify(trainer)
            else:
                self._train(trainer)
        finally:
            trainer.meter.close()
            self.evidence.peaks = trainer.meter.peaks() or self.evidence.peaks
        self.ranks.leave()

    def _read_rows(self) -> tuple[Rows, Rows | None]:
        rows = planned_rows(self.plan)
        for remark in rows.remarks():
            self._warn(remark)
        return rows.train, rows.held_out

    def _make_trainer(self, train_rows: Rows, eval_rows: Rows | None) -> Any:
        from transformers import set_seed
        from transformers.trainer_callback import PrinterCallback

        from vramplan.executor.guard import Guard
        from vramplan.executor.marks import Marks
        from vramplan.executor.saving import Saver
        from vramplan.executor.telemetry import Telemetry
        from vramplan.executor.trainer import trainer_class
        from vramplan.executor.training_args import training_args

        plan, setup = self.plan, self.plan.setup
        device, meter = self._prepare_device()
        marks = Marks(meter, self.evidence.enter)
        marks.enter("load")
        set_seed(plan.recipe.seed)
        args = training_args(  # before the model: several processes meet here
            plan,
            on_cuda=device != "cpu",
            completions=data.has_completions(train_rows),
            evaluates=eval_rows is not None,
            evaluates_first=eval_rows is not None and self.attempt.goal == "run" and not self.attempt.resume_from,
            reports=self.attempt.goal == "run",
        )
        self.ranks.meet()
        tokenizer, model = self._load(device, train_rows)
        self._progress("tokenising")
        telemetry = Telemetry(self.emit, self.evidence, meter, self.stop, self.ranks)
        guard = Guard(self.attempt, self.evidence, self.emit, self.stop, self.ranks, self.asked)
        trainer = trainer_class(setup, plan.workload.task)(
            setup=setup,
            marks=marks,
            meter=meter,
            saver=Saver(self.evidence, self.stop, self._progress, self.ranks),
            head_rows=(MEASURED_STEP + 1) * self._rows_of_a_step,
            model=model,
            args=args,
            train_dataset=self._dataset(train_rows, tokenizer),
            eval_dataset=None if eval_rows is None else self._dataset(eval_rows, tokenizer),
            data_collator=data.collator(plan.workload.task, tokenizer, model),
            processing_class=tokenizer,
            callbacks=[telemetry, guard],
        )
        self.ranks.check_joined(plan, trainer.accelerator)
        trainer.remove_callback(PrinterCallback)
        telemetry.trainer = guard.trainer = trainer
        marks.watch(trainer.model)
        guard.check_loaded()
        return trainer

    @property
    def _rows_of_a_step(self) -> int:
        setup = self.plan.setup
        return setup.micro_batch_size * setup.gradient_accumulation_steps * setup.world_size

    def _prepare_device(self) -> tuple[str, PhaseMeter]:
        """The planned device, its memory capped, and what measures it."""
        from vramplan.executor import machine

        self.evidence.watch(find_sensors(number=self.ranks.local_rank))
        device = machine.use_device(self.plan.device, self.ranks.local_rank)
        cap_bytes = machine.cap_memory(device, self.plan, strict=self.attempt.strict_budget)
        self.evidence.environment = machine.environment(device)
        if cap_bytes is not None:
            self.evidence.environment["memory_cap_bytes"] = str(cap_bytes)
        meter, self.evidence.measured_by = machine.make_meter(
            device, MEASURED_STEP, track=self.attempt.track, outside=self.attempt.goal == "verify"
        )
        return device, meter

    def _load(self, device: str, rows: Rows) -> tuple[Any, Any]:
        model = self.plan.model
        self._progress(f"loading {model.repo_id}")
        tokenizer = load.load_tokenizer(model)
        data.take_chat_template(tokenizer, self.plan.recipe.chat_template)
        data.check_chat_template(rows, tokenizer, model.repo_id)
        task, labels = self.plan.workload.task, self.plan.data.labels if self.plan.data else ()
        place = load.device_map(self.plan, device)
        with loaded_whole(self.plan):
            loaded = load.load_model(model, self.plan.setup, device_map=place, task=task, labels=labels)
        if task == "classification":  # a decoder finds the last token that counts by it
            loaded.config.get_text_config().pad_token_id = tokenizer.pad_token_id
        return tokenizer, loaded

    def _dataset(self, rows: Rows, tokenizer: Any) -> Any:
        plan = self.plan
        if plan.workload.task == "causal-lm":
            return data.make_dataset(rows, completion_only=plan.recipe.completion_only)
        labels, model_type = plan.data.labels if plan.data else (), plan.model.model_type
        return data.tokenised(rows, tokenizer, plan.workload, labels=labels, model_type=model_type)

    def _check_rows(self, trainer: Any, rows: Rows) -> None:
        """Rows that truncation left nothing of, known once they are tokenised."""
        limit, left = self.plan.workload.sequence_length, len(trainer.train_dataset)
        if left == 0:
            raise BadDataError(
                f"no row of {rows.path} has a token to learn within {limit} tokens",
                remedy="re-plan with a larger --sequence-length, or shorten the prompts",
            )
        if left < len(rows.rows) and not self.plan.setup.packing:
            self._warn(f"{len(rows.rows) - left} rows have nothing to learn within {limit} tokens and are left out")
        setup, lengths = self.plan.setup, data.row_lengths(trainer.train_dataset)
        if setup.padding == "none" and setup.micro_batch_size > 1 and not setup.packing and len(set(lengths)) > 1:
            self._warn("the plan was priced with --padding none, but rows differ in length, so batches hold pad tokens")

    def _train(self, trainer: Any) -> None:
        checkpoint = self.attempt.resume_from
        if checkpoint is not None:
            found = read_seal(Path(checkpoint))
            self.evidence.continue_from(found.so_far, found.step)
            self._progress(f"going on from {checkpoint}")
        elif trainer.eval_dataset is not None and not self.ranks.several:  # they do so inside train(): see Telemetry
            self.evidence.eval_loss_before = trainer.evaluate()["eval_loss"]
        trainer.train(resume_from_checkpoint=checkpoint)
        if self.stop.requested:
            return
        if trainer.eval_dataset is not None:
            self.evidence.eval_loss_after = trainer.evaluate()["eval_loss"]
        self._progress("saving")
        if trainer.save_result() and self.ranks.first:
            folder = self.plan.recipe.output_dir
            self.evidence.saved_bytes = folder_bytes(folder, but="checkpoint-")
            step, size_bytes = trainer.state.global_step, self.evidence.saved_bytes
            self.emit(Saved(time=time.time(), step=step, path=folder, size_bytes=size_bytes))

    def _verify(self, trainer: Any) -> None:
        """The longest rows first, the optimizer's first steps, the largest evaluation batch, one checkpoint."""
        try:
            trainer.train()
            if self.stop.requested:
                return
            if trainer.eval_dataset is not None:
                rows = self.plan.setup.micro_batch_size * self.ranks.world_size
                longest = data.longest(trainer.eval_dataset, rows)
                self.evidence.eval_loss_after = trainer.evaluate(longest)["eval_loss"]
            self._progress("saving into a scratch folder")
            if stage_of(self.plan.setup):
                trainer.save_result()
            else:
                trainer.save_checkpoint()
            self.evidence.saved_bytes = self.evidence.checkpoint_bytes
        finally:
            if self.ranks.first:
                shutil.rmtree(self.plan.recipe.output_dir, ignore_errors=True)

    def _progress(self, what: str) -> None:
        self.emit(Progress(time=time.time(), what=what))

    def _warn(self, message: str) -> None:
        self.emit(Warned(time=time.time(), message=message))
