"""Checked rows as a ``datasets.Dataset``: as trl's SFTTrainer takes it, or tokenised here for other tasks."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vramplan.planner.errors import BadDataError, UnsupportedError
from vramplan.planner.rows import Rows
from vramplan.planner.tasks import TOKEN_TYPED
from vramplan.planner.workload import Task, Workload


def make_dataset(rows: Rows, *, completion_only: bool) -> Any:
    """Rows as a ``datasets.Dataset`` held in memory.

    With ``completion_only`` a conversation becomes prompt (all but the last message) and completion (the last,
    which ``read_rows`` made sure is the assistant's): trl then masks the prompt under any chat template, where its
    own assistant-only loss needs generation markers in the template. Earlier answers are context, not targets.
    """
    from datasets import Dataset  # 1 s

    if rows.kind == "messages" and completion_only:
        return Dataset.from_list(
            [{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows.rows]
        )
    return Dataset.from_list(list(rows.rows))


def has_completions(rows: Rows) -> bool:
    """Whether loss on the completion alone means anything for these rows."""
    return rows.kind in ("prompt-completion", "messages")


def tokenised(rows: Rows, tokenizer: Any, workload: Workload, *, labels: Sequence[str], model_type: str) -> Any:
    """Rows of another task than causal LM as token ids, cut to the planned lengths; rows without a token left out.

    classification   input_ids, attention_mask, token_type_ids where the model takes them; label, the class's id
    seq2seq          input_ids, attention_mask; labels, the target's ids
    """
    from datasets import Dataset

    typed = model_type in TOKEN_TYPED
    numbers = {label: number for number, label in enumerate(labels)}
    found = []
    for row in rows.rows:
        text = row["text"] if rows.kind == "labelled" else row["input"]
        made = tokenizer(text, truncation=True, max_length=workload.sequence_length, return_token_type_ids=typed).data
        if rows.kind == "labelled":
            made["label"] = numbers[row["label"]]
        else:
            target = tokenizer(text_target=row["target"], truncation=True, max_length=workload.target_length)
            made["labels"] = target["input_ids"]
        if made["input_ids"] and made.get("labels") != []:
            found.append(made)
    return Dataset.from_list(found)


def collator(task: Task, tokenizer: Any, model: Any) -> Any | None:
    """What pads a micro batch to its longest row, as planner/trace/task_batches.py has it; None: trl's own."""
    from transformers import DataCollatorForSeq2Seq, DataCollatorWithPadding

    if task == "classification":
        return DataCollatorWithPadding(tokenizer)
    return DataCollatorForSeq2Seq(tokenizer, model=model) if task == "seq2seq" else None


def row_lengths(dataset: Any) -> list[int]:
    """Tokens of every row of a tokenised dataset; the decoder's too where it has one."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
    if "labels" not in dataset.column_names or "attention_mask" not in dataset.column_names:
        return lengths
    return [length + len(labels) for length, labels in zip(lengths, dataset["labels"], strict=True)]


def take_chat_template(tokenizer: Any, path: str | None) -> None:
    """Give a tokenizer the template a person named in place of its own.

    Raises:
        BadDataError: it cannot be read.
    """
    if path is None:
        return
    try:
        tokenizer.chat_template = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BadDataError(f"cannot read the chat template {path}: {error}", remedy="plan again with it") from error


def check_chat_template(rows: Rows, tokenizer: Any, model: str) -> None:
    """Conversations need the tokenizer's chat template.

    Raises:
        UnsupportedError: the rows are ``messages`` and the tokenizer has none.
    """
    if rows.kind == "messages" and not tokenizer.chat_template:
        raise UnsupportedError(
            f"{rows.path} holds messages, but the tokenizer of {model} has no chat template to write them with",
            remedy="plan again with --chat-template FILE, or use the instruction-tuned model",
        )


def longest(dataset: Any, count: int) -> Any:
    """The ``count`` longest rows of a tokenised dataset."""
    lengths = row_lengths(dataset)
    return dataset.select(sorted(range(len(lengths)), key=lambda row: -lengths[row])[:count])


class LongestFirst:
    """A sampler that puts the ``head`` longest rows first and shuffles the rest, the same way for the same seed.

    The first steps then hold the largest batches of the run: they are what the plan's peak is compared with, and a
    run that will not fit fails in its first minute. Later epochs are shuffled throughout.

    Args:
        lengths: tokens of every row.
        head: how many rows come first, longest of all at the front.
    """

    def __init__(self, lengths: list[int], *, head: int, seed: int) -> None:
        self.lengths = lengths
        self.head = head
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader at the start of every epoch, also when a run resumes."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        import random

        order = list(range(len(self.lengths)))
        random.Random(f"{self.seed}-{self.epoch}").shuffle(order)
        if self.epoch:
            return iter(order)
        longest = sorted(order, key=lambda row: -self.lengths[row])[: self.head]
        chosen = set(longest)
        return iter([*longest, *(row for row in order if row not in chosen)])
