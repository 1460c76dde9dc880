"""Held-out rows that training has not seen in another guise.

Rows are one group when they share an input, or a long output, letter case and spaces aside: the same question asked
twice, or one text under two prompts. A group stays whole, on one side. Short outputs ("yes", a class) repeat without
being copies.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

from vramplan.planner.errors import BadDataError
from vramplan.planner.rows import Rows

LONG_WORDS = 8
"""From here on the same output twice is a copy, not a coincidence."""


def split_rows(rows: Rows, fraction: float, seed: int) -> tuple[Rows, Rows]:
    """(rows to train on, rows held out), each in the file's order; the same for the same seed.

    Args:
        fraction: of the rows, held out at most; above 0, below 1.

    Raises:
        BadDataError: there is no group small enough, or nothing would be left.
    """
    wanted = int(fraction * len(rows.rows))
    held: set[int] = set()
    for group in _shuffled(_groups(rows), seed):
        if len(held) + len(group) <= wanted:
            held.update(group)
    if not held:
        raise BadDataError(
            f"nothing of {rows.path} can be held out: {len(rows.rows)} rows, and those that are alike stay together",
            remedy="give a larger --eval-fraction, or a file of its own with --eval-data",
        )
    train = tuple(row for index, row in enumerate(rows.rows) if index not in held)
    held_out = tuple(row for index, row in enumerate(rows.rows) if index in held)
    return rows.model_copy(update={"rows": train}), rows.model_copy(update={"rows": held_out, "bad": ()})


def seen_in(train: Rows, held_out: Rows) -> list[int]:
    """Places (from 1) of held-out rows of which training holds a copy."""
    known = {key for row in train.rows for key in _keys(row)}
    return [place for place, row in enumerate(held_out.rows, start=1) if any(key in known for key in _keys(row))]


def _groups(rows: Rows) -> list[list[int]]:
    """Places of rows that are alike, directly or by way of others."""
    parents = list(range(len(rows.rows)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    first: dict[tuple[str, str], int] = {}
    for place, row in enumerate(rows.rows):
        for key in _keys(row):
            parents[root(place)] = root(first.setdefault(key, place))
    groups: dict[int, list[int]] = {}
    for place in range(len(rows.rows)):
        groups.setdefault(root(place), []).append(place)
    return list(groups.values())


def _shuffled(groups: list[list[int]], seed: int) -> list[list[int]]:
    """By a hash, so that neither Python's version nor its random module decides."""
    return sorted(groups, key=lambda group: hashlib.sha256(f"{seed} {group[0]}".encode()).digest())


def _keys(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What makes a row a copy of another."""
    messages = row.get("messages")
    if messages is not None:
        row = {"prompt": _said(messages[:-1]), "completion": messages[-1]["content"]}
    asked = row.get("prompt", row.get("input", row.get("text", "")))
    if asked.strip():
        yield "input", _plain(asked)
    answer = row.get("completion", row.get("target", ""))
    if len(answer.split()) >= LONG_WORDS or (answer and not asked.strip()):
        yield "output", _plain(answer)


def _said(messages: list[dict[str, str]]) -> str:
    """A conversation's text; what the system is told is the same in many."""
    return "\n".join(message["content"] for message in messages if message["role"] != "system")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
