"""What only one task has: a classifier's number of classes, the length of a seq2seq target."""

from vramplan.planner.contradictions import flag_of
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.picker import Picker
from vramplan.planner.tasks import DEFAULT_NUM_LABELS, DEFAULT_TARGET_LENGTH
from vramplan.planner.workload import RowLengths, Task


def choose_num_labels(pick: Picker, task: Task) -> int | None:
    """Classes of a classifier; None for another task.

    Raises:
        UnsupportedError: one class, which makes it a regression.
        UsageError: asked of another task.
    """
    if task != "classification":
        _check_only(pick, "num_labels", "classification")
        return None
    if pick.given("num_labels") == 1:
        raise UnsupportedError(
            "--num-labels 1 is a regression, whose loss is not priced yet", remedy="--num-labels 2 or more"
        )
    return int(pick.take("num_labels", DEFAULT_NUM_LABELS))


def choose_target_length(pick: Picker, model: ModelSpec, task: Task, rows: RowLengths | None) -> int | None:
    """Decoder tokens of a seq2seq row; None for another task.

    Raises:
        UsageError: asked of another task.
    """
    if task != "seq2seq":
        _check_only(pick, "target_length", "seq2seq")
        return None
    wanted = min(DEFAULT_TARGET_LENGTH, model.context_length or DEFAULT_TARGET_LENGTH)
    if rows is not None and rows.longest_target is not None and rows.longest_target < wanted:
        return int(pick.take("target_length", rows.longest_target, derived="the longest target of the data"))
    return int(pick.take("target_length", wanted))


def _check_only(pick: Picker, option: str, task: Task) -> None:
    if pick.given(option) is not None:
        raise UsageError(f"{flag_of(option)} belongs to --task {task}", remedy=f"leave {flag_of(option)} out")
