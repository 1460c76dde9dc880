"""The batch each task's collator sends.

    causal-lm        trl's collator (planner/trace/step.py)
    classification   DataCollatorWithPadding: input_ids, attention_mask, token_type_ids where the tokenizer makes them
                     (B, S), labels (B,)
    seq2seq          DataCollatorForSeq2Seq with the model at hand: input_ids, attention_mask (B, S), labels and
                     decoder_input_ids (B, D)

Source: transformers/data/data_collator.py.
"""

import torch

from vramplan.planner.tasks import TOKEN_TYPED
from vramplan.planner.trace.step import Batch, language_batch
from vramplan.planner.workload import Task


def task_batch(
    task: Task,
    model_type: str,
    batch_size: int,
    sequence_length: int,
    *,
    num_labels: int = 2,
    target_length: int = 2,
    real: bool = False,
    vocab_size: int = 100,
    padded: bool = False,
) -> Batch:
    """The batch a task's model is given; every tensor int64."""
    batch = language_batch(batch_size, sequence_length, real=real, vocab_size=vocab_size, padded=padded)
    if task == "classification":
        batch["labels"] = _ids((batch_size,), num_labels, real)
        if model_type in TOKEN_TYPED:
            batch["token_type_ids"] = _ids((batch_size, sequence_length), 1, real)
    elif task == "seq2seq":
        batch["labels"] = _ids((batch_size, target_length), vocab_size, real)
        batch["decoder_input_ids"] = _ids((batch_size, target_length), vocab_size, real)
    return batch


def _ids(shape: tuple[int, ...], limit: int, real: bool) -> torch.Tensor:
    return torch.randint(0, limit, shape) if real else torch.empty(shape, dtype=torch.long)
