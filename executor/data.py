"""Checked rows as the ``datasets.Dataset`` that trl's SFTTrainer formats and tokenises."""

from collections.abc import Iterator
from typing import Any

from vramplan.executor.rows import Rows
from vramplan.planner.errors import UnsupportedError


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
    return rows.kind != "text"


def check_chat_template(rows: Rows, tokenizer: Any, model: str) -> None:
    """Conversations need the tokenizer's chat template.

    Raises:
        UnsupportedError: the rows are ``messages`` and the tokenizer has none.
    """
    if rows.kind == "messages" and not tokenizer.chat_template:
        raise UnsupportedError(
            f"{rows.path} holds messages, but the tokenizer of {model} has no chat template to write them with",
            remedy="use the instruction-tuned model, or rows with `prompt` and `completion`",
        )


def longest(dataset: Any, count: int) -> Any:
    """The ``count`` longest rows of a tokenised dataset."""
    lengths = [len(ids) for ids in dataset["input_ids"]]
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
