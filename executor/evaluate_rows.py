"""Held-out rows as token ids and the place from which tokens carry loss, as trl's SFTTrainer makes them
(trl/trainer/sft_trainer.py, _prepare_dataset): the completion begins where prompt and whole row part."""

from pathlib import Path
from typing import Any, NamedTuple

from vramplan.executor.rows import planned_rows
from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.errors import BadDataError
from vramplan.planner.plan import Plan
from vramplan.planner.rows import Rows


class Encoded(NamedTuple):
    """One row."""

    ids: list[int]
    first: int
    """The first token that carries loss; at least 1, because nothing predicts the first token."""


def held_out(plan: Plan, path: str | None) -> Rows:
    """The rows of a file, or those the run held out; the training file is read only where they are a part of it.

    Raises:
        BadDataError: there are none, or a row is unusable.
    """
    recipe = plan.recipe
    place = path or recipe.eval_data
    if place is None:
        rows = planned_rows(plan).held_out
        if rows is None or not rows.rows:
            raise BadDataError("this run held nothing out", remedy="name rows it has not seen: --data FILE")
        return rows
    rows = read_rows(Path(place), plan.workload.task, columns=recipe.columns, skip_bad_rows=recipe.skip_bad_rows)
    known = plan.data.labels if plan.data is not None else ()
    strange = next((row["label"] for row in rows.rows if known and row["label"] not in known), None)
    if strange is not None:
        raise BadDataError(
            f"{place} has a row labelled {strange!r}, which no training row was",
            remedy=f"the classes are {', '.join(known)}",
        )
    return rows


def encode(rows: Rows, tokenizer: Any, plan: Plan) -> list[Encoded]:
    """Every row that has a token to predict within the planned length."""
    limit, completion_only = plan.workload.sequence_length, plan.recipe.completion_only
    found = []
    for row in rows.rows:
        ids, first = _encode(row, tokenizer, completion_only)
        ids, first = ids[:limit], max(1, first)
        if first < len(ids):
            found.append(Encoded(ids, first))
    return found


def _encode(row: dict[str, Any], tokenizer: Any, completion_only: bool) -> tuple[list[int], int]:
    if "messages" in row:
        whole = _turns(tokenizer, row["messages"])
        asked = _turns(tokenizer, row["messages"][:-1], add_generation_prompt=True) if row["messages"][:-1] else []
        return whole, _common(asked, whole) if completion_only else 0
    if "text" in row:
        return _ids(tokenizer, _ended(tokenizer, row["text"])), 0
    whole = _ids(tokenizer, row["prompt"] + _ended(tokenizer, row["completion"]))
    return whole, _common(_ids(tokenizer, row["prompt"]), whole) if completion_only else 0


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text)["input_ids"])


def _turns(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> list[int]:
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True, **options)["input_ids"])


def _ended(tokenizer: Any, text: str) -> str:
    end = tokenizer.eos_token
    return text if end is None or text.endswith(end) else text + end


def _common(asked: list[int], whole: list[int]) -> int:
    """How many tokens two rows begin alike with."""
    for place, (a, b) in enumerate(zip(asked, whole, strict=False)):
        if a != b:
            return place
    return min(len(asked), len(whole))
