"""What an evaluation is asked and what it finds: base and tuned model on the same rows."""

from datetime import datetime

from vramplan.executor.finished import Tuned
from vramplan.planner.values import Value

EVALUATION = "evaluation.json"
"""The last evaluation, beside the run's report."""


class EvaluateRequest(Value):
    """One evaluation, as the child process is told it."""

    run: Tuned
    data: str | None
    """Rows to evaluate on; None: those the run held out."""
    output: str
    """Where the ``Evaluation`` is written."""


class Scores(Value):
    """One model on all rows."""

    rows: int
    loss: float
    """Mean cross-entropy: over every token that carries loss, or over rows where the model classifies."""
    tokens: int | None = None
    """Tokens that carry loss."""
    perplexity: float | None = None
    """exp(loss); None where it is too large to write, or the model classifies."""
    accuracy: float | None = None
    macro_f1: float | None = None
    """The mean of every class's F1; a class nobody has and nobody is given counts for nothing."""


class Evaluation(Value):
    """Base and tuned model beside one another."""

    run: str
    plan_fingerprint: str
    evaluated_at: datetime
    data: str
    device: str
    base: Scores
    tuned: Scores
    most_frequent_share: float | None = None
    """Share of the rows of the most frequent class: what guessing it would score."""
    note: str | None = None


def f1_macro(truth: list[int], given: list[int]) -> float:
    """The mean over classes of 2 TP / (2 TP + FP + FN) (van Rijsbergen, 1979, chapter 7).

    >>> f1_macro([0, 0, 1, 1], [0, 1, 1, 1])  # 2/3 of class 0, 4/5 of class 1
    0.7333333333333334
    """
    scores = []
    for label in sorted({*truth, *given}):
        hits = sum(a == b == label for a, b in zip(truth, given, strict=True))
        scores.append(2 * hits / (truth.count(label) + given.count(label)))
    return sum(scores) / len(scores)
