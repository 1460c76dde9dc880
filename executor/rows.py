"""The rows of a plan: what is trained on and what is held out, checked in full before torch is imported."""

from pathlib import Path
from typing import NamedTuple

from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.errors import BadDataError
from vramplan.planner.plan import Plan
from vramplan.planner.rows import Rows
from vramplan.planner.split import seen_in, split_rows

LISTED = 20
"""Rows that are listed one by one; the others are counted."""


class PlannedRows(NamedTuple):
    """Rows to train on, and those held out, if any."""

    train: Rows
    held_out: Rows | None

    def remarks(self) -> list[str]:
        """What a person should know of the rows: those left out, and held-out rows that training has seen."""
        bad = [*self.train.bad, *(self.held_out.bad if self.held_out else ())]
        said = [f"left out: {row}" for row in bad[:LISTED]]
        if len(bad) > LISTED:
            said.append(f"left out: {len(bad) - LISTED:,} more rows")
        copies = seen_in(self.train, self.held_out) if self.held_out else []
        if copies:
            places = ", ".join(map(str, copies[:LISTED])) + (" ..." if len(copies) > LISTED else "")
            said.append(f"{len(copies)} held-out rows are copies of training rows, so their loss flatters: {places}")
        return said


def planned_rows(plan: Plan) -> PlannedRows:
    """Read the data a plan names.

    Raises:
        BadDataError: there is none, or a row is unusable.
    """
    path = plan.data.path if plan.data else plan.recipe.data
    if path is None:
        raise BadDataError("the plan names no training file", remedy="re-plan with --data FILE")
    train, recipe = _read(plan, path), plan.recipe
    if recipe.eval_data:
        return PlannedRows(train, _held_out(plan, recipe.eval_data))
    if recipe.eval_fraction > 0:
        return PlannedRows(*split_rows(train, recipe.eval_fraction, recipe.seed))
    return PlannedRows(train, None)


def _held_out(plan: Plan, path: str) -> Rows:
    """The rows of the held-out file: of a classifier, of classes it is trained for."""
    rows = _read(plan, path)
    known = plan.data.labels if plan.data else ()
    for place, row in enumerate(rows.rows, start=1):
        if known and row["label"] not in known:
            raise BadDataError(
                f"{path}: usable row {place} is labelled {row['label']!r}, which no training row is",
                remedy=f"the classes are {', '.join(known)}",
            )
    return rows


def _read(plan: Plan, path: str) -> Rows:
    recipe = plan.recipe
    return read_rows(Path(path), plan.workload.task, columns=recipe.columns, skip_bad_rows=recipe.skip_bad_rows)
