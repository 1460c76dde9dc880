"""Held-out rows are no copies of training rows."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vramplan.planner.errors import BadDataError
from vramplan.planner.rows import Rows
from vramplan.planner.split import seen_in, split_rows


def rows_of(*rows: dict[str, Any], kind: Any = "prompt-completion") -> Rows:
    return Rows(path="data", kind=kind, rows=rows)


def pairs(*prompts: str) -> Rows:
    return rows_of(*({"prompt": prompt, "completion": "yes"} for prompt in prompts))


@given(
    st.lists(st.sampled_from("abcdefghijklm"), min_size=4, max_size=60),
    st.floats(min_value=0.05, max_value=0.6),
    st.integers(min_value=0, max_value=9),
)
def test_no_prompt_stands_on_both_sides_and_no_row_is_lost(prompts: list[str], fraction: float, seed: int) -> None:
    rows = pairs(*prompts)
    try:
        train, held_out = split_rows(rows, fraction, seed)
    except BadDataError:
        return
    assert not {row["prompt"] for row in train.rows} & {row["prompt"] for row in held_out.rows}
    assert len(train.rows) + len(held_out.rows) == len(prompts)
    assert 0 < len(held_out.rows) <= fraction * len(prompts)
    assert (train, held_out) == split_rows(rows, fraction, seed)


def test_letter_case_and_spaces_make_no_other_text() -> None:
    train, held_out = split_rows(pairs("What is it?", "what  is IT? ", "b", "c", "d", "e"), 0.4, 0)
    sides = [[row["prompt"] for row in side.rows] for side in (train, held_out)]
    assert any({"What is it?", "what  is IT? "} <= set(side) for side in sides)


def test_a_long_answer_twice_is_a_copy_and_a_short_one_is_not() -> None:
    long = "one two three four five six seven eight nine"
    rows = rows_of(*({"input": name, "target": long} for name in "ab"), kind="input-target")
    assert seen_in(rows, rows_of({"input": "c", "target": long}, kind="input-target")) == [1]
    assert seen_in(pairs("a"), pairs("b")) == []
    with pytest.raises(BadDataError, match="nothing of data can be held out"):
        split_rows(rows, 0.5, 0)


def test_conversations_are_alike_when_all_but_the_answer_is() -> None:
    def chat(system: str, question: str, answer: str) -> dict[str, Any]:
        said = {"system": system, "user": question, "assistant": answer}
        return {"messages": [{"role": role, "content": content} for role, content in said.items()]}

    train = rows_of(chat("be brief", "who?", "me"), kind="messages")
    held_out = rows_of(chat("be kind", "Who?", "you"), chat("be brief", "where?", "me"), kind="messages")
    assert seen_in(train, held_out) == [1]
