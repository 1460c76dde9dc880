"""The libraries' trainers, with phases marked, the longest rows first, checkpoints sealed, and the planned loss.

causal-lm        trl's SFTTrainer
classification   transformers' Trainer
seq2seq          transformers' Seq2SeqTrainer
"""

from pathlib import Path
from typing import Any

from transformers import Seq2SeqTrainer, Trainer
from trl import SFTTrainer

from vramplan.executor.data import LongestFirst, row_lengths
from vramplan.executor.marks import Marks
from vramplan.executor.methods.attach import set_adapter_dtype
from vramplan.executor.methods.layerwise import part_groups
from vramplan.executor.phases import PhaseMeter
from vramplan.executor.saving import Saver
from vramplan.planner.methods import Layerwise, trains_base
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Task


class PlannedTrainer(Trainer):  # type: ignore[misc]
    """A trainer as it is, watched: what comes before the library's own in each class below.

    Args:
        setup: the setup that is run.
        marks: told which phase begins.
        saver: writes checkpoints and the result.
        head_rows: how many of the longest rows come first.
    """

    def __init__(
        self, *, setup: TrainingSetup, marks: Marks, meter: PhaseMeter, saver: Saver, head_rows: int, **options: Any
    ) -> None:
        self.setup = setup
        self.marks = marks
        self.meter = meter
        self.saver = saver
        self.head_rows = head_rows
        self.last_batch: dict[str, int] | None = None
        self.last_checkpoint: Path | None = None
        """The checkpoint just written; None when there was no room for it."""
        self._micro_batch = 0
        self._saving: str | None = None
        super().__init__(**options)
        self.plan_dtypes()

    def plan_dtypes(self) -> None:
        """Adapters in the planned dtype, whatever PEFT and trl have made of them."""
        set_adapter_dtype(self.model, self.setup)

    def create_optimizer(self, *args: Any, **options: Any) -> Any:
        first = self.optimizer is None
        optimizer = super().create_optimizer(*args, **options)
        if first and isinstance(self.setup.method, Layerwise):
            part_groups(optimizer, self.model, self.setup.method)
        return optimizer

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        self.last_batch = batch_shape(inputs)
        self.meter.begin_micro_batch(
            self.state.global_step + 1, self._micro_batch, self.current_gradient_accumulation_steps
        )
        self._micro_batch = 0 if self.accelerator.sync_gradients else self._micro_batch + 1
        self.marks.enter("forward")
        return super().training_step(model, inputs, num_items_in_batch)

    def _clip_grad_norm(self, model: Any) -> Any:
        self.marks.enter("optimizer_step")
        return super()._clip_grad_norm(model)

    def evaluate(self, *args: Any, **options: Any) -> Any:
        with self.marks.outside_a_step("evaluation"):
            return super().evaluate(*args, **options)

    def save_result(self) -> bool:
        """Write the final weights; False when there was no room and the run was told to stop."""
        with self.marks.outside_a_step("save"):
            return self.saver.result(self.state.global_step, self.save_model)

    def save_checkpoint(self) -> None:
        """Write a checkpoint of where the run is now."""
        self._save_checkpoint(self.model, None)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        def write(folder: str) -> None:
            self._saving = folder
            try:
                super(PlannedTrainer, self)._save_checkpoint(model, trial)
            finally:
                self._saving = None

        with self.marks.outside_a_step("save"):
            self.last_checkpoint = self.saver.checkpoint(self.state.global_step, write)

    def _get_output_dir(self, trial: Any) -> str:
        return self._saving or str(super()._get_output_dir(trial))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with self.marks.outside_a_step("resume"):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            if not self.is_fsdp_enabled:  # which has its own dtypes by now
                self.plan_dtypes()  # PEFT loads half-precision adapters as fp32

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        lengths = row_lengths(train_dataset or self.train_dataset)
        return LongestFirst(lengths, head=self.head_rows, seed=self.args.seed)


class LanguageTrainer(PlannedTrainer, SFTTrainer):  # type: ignore[misc]
    """SFTTrainer with its fused head and loss."""


class StandardLossTrainer(LanguageTrainer):
    """The model's own loss on full logits, as transformers' Trainer runs it: trl's fused head is left unused."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)


class ClassificationTrainer(PlannedTrainer):
    """The model's own loss over its classes."""

    def __init__(self, **options: Any) -> None:
        model, setup, args = options["model"], options["setup"], options["args"]
        if args.gradient_checkpointing and not trains_base(setup.method):
            model.enable_input_require_grads()  # as trl does for causal models, and as the planned step was traced
        super().__init__(**options)
        # Their forward takes any keyword, num_items_in_batch too, and averages over its own micro batch all the same:
        # told that it does, Trainer would not divide by the number of micro batches, and gradients would be their sum.
        self.model_accepts_loss_kwargs = False


class Seq2SeqPlannedTrainer(ClassificationTrainer, Seq2SeqTrainer):  # type: ignore[misc]
    """The model's own loss over its decoder's tokens."""


def trainer_class(setup: TrainingSetup, task: Task = "causal-lm") -> type[PlannedTrainer]:
    """The trainer whose loss is the planned one."""
    if task != "causal-lm":
        return ClassificationTrainer if task == "classification" else Seq2SeqPlannedTrainer
    return StandardLossTrainer if setup.loss == "standard" else LanguageTrainer


def batch_shape(inputs: Any) -> dict[str, int]:
    """A collated micro batch in numbers: rows, padded length, labels that carry loss (after the shift, where there is
    one), pad tokens, and the decoder's padded length where there is one."""
    rows, length = inputs["input_ids"].shape
    mask, labels = inputs.get("attention_mask"), inputs["labels"]
    decoder = inputs.get("decoder_input_ids")
    shifted = labels[..., 1:] if labels.dim() > 1 and decoder is None else labels
    shape = {
        "micro_batch_size": rows,
        "sequence_length": length,
        "valid_labels": int((shifted != -100).sum()),
        "padding_tokens": 0 if mask is None else int((mask == 0).sum()),
    }
    return shape if decoder is None else shape | {"target_length": decoder.shape[1]}
