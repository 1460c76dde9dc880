"""Workload: what must be trained, before any choice of how."""

from typing import Literal

from pydantic import Field

from vramplan.planner.lengths import Histogram
from vramplan.planner.values import Value

Task = Literal["causal-lm", "classification", "seq2seq"]


class Workload(Value):
    """What the data and the person ask for; the micro batch is the setup's business."""

    task: Task = "causal-lm"
    sequence_length: int = Field(ge=1, le=2**24)
    """Tokens of the longest row after truncation."""
    target_length: int | None = Field(default=None, ge=1, le=2**24)
    """Decoder tokens of a seq2seq row."""
    num_labels: int | None = Field(default=None, ge=1, le=2**20)
    sequences_per_step: int = Field(default=16, ge=1, le=2**24)
    """Rows per optimizer step, over micro batches and devices."""
    valid_label_fraction: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of tokens that carry loss; 1.0 unless prompts are masked."""
    num_examples: int | None = Field(default=None, ge=1)
    num_train_epochs: float = Field(default=1.0, gt=0.0)
    length_quantiles: tuple[int, ...] = ()
    """Row lengths at even shares of the rows, shortest to longest, where the data was measured and rows vary."""


class RowLengths(Value):
    """How long the rows of a training file are, in the model's own tokens, before truncation."""

    longest_row: int = Field(ge=1)
    longest_completion: int | None = None
    """Tokens of the longest completion; None where rows have none."""
    longest_target: int | None = None
    """Tokens of the longest seq2seq target; None where rows have none."""
    quantiles: tuple[int, ...] = ()
    """Row lengths at even shares of the rows, shortest to longest."""
    histogram: Histogram | None = None
    estimated_because: str | None = None
    """Why these are upper ends guessed from characters; None: counted by the tokenizer."""
    shortest_guess: int | None = None
    """Then: the lower end of the longest row's length."""
    example: tuple[str, str] | None = None
    """The first row as it is trained: what carries no loss, and what does."""
