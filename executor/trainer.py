"""trl's SFTTrainer, with phases marked, the longest rows first, and the planned loss."""

from typing import Any

from transformers import Trainer
from trl import SFTTrainer

from vramplan.executor.data import LongestFirst
from vramplan.executor.marks import Marks
from vramplan.executor.phases import PhaseMeter


class PlannedTrainer(SFTTrainer):  # type: ignore[misc]
    """SFTTrainer as it is (its fused head and loss), watched.

    Args:
        marks: told which phase begins.
        head_rows: how many of the longest rows come first.
    """

    def __init__(self, *, marks: Marks, meter: PhaseMeter, head_rows: int, **options: Any) -> None:
        self.marks = marks
        self.meter = meter
        self.head_rows = head_rows
        self.last_batch: dict[str, int] | None = None
        self._micro_batch = 0
        super().__init__(**options)

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
        self.marks.enter("evaluation")
        return super().evaluate(*args, **options)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        self.marks.enter("save")
        super()._save_checkpoint(model, trial)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        lengths = [len(ids) for ids in (train_dataset or self.train_dataset)["input_ids"]]
        return LongestFirst(lengths, head=self.head_rows, seed=self.args.seed)


class StandardLossTrainer(PlannedTrainer):
    """The model's own loss on full logits, as transformers' Trainer runs it: trl's fused head is left unused."""

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        return Trainer.compute_loss(self, model, {**inputs, "use_cache": False}, return_outputs, num_items_in_batch)


def batch_shape(inputs: Any) -> dict[str, int]:
    """A collated micro batch in numbers: rows, padded length, labels that carry loss after the shift, pad tokens."""
    rows, length = inputs["input_ids"].shape
    mask = inputs.get("attention_mask")
    return {
        "micro_batch_size": rows,
        "sequence_length": length,
        "valid_labels": int((inputs["labels"][..., 1:] != -100).sum()),
        "padding_tokens": 0 if mask is None else int((mask == 0).sum()),
    }
