"""Screen 3: the methods side by side, those that do not fit included."""

import asyncio
from collections.abc import Iterable

from rich.text import Text
from textual import on, work
from textual.containers import Container, Vertical
from textual.widget import Widget
from textual.widgets import Static

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.ledger import method_words
from vramplan.tui.choice import Choice, Compared, Knobs
from vramplan.tui.knobs import KNOBS, in_force
from vramplan.tui.messages import KnobsChanged
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import cell, gib
from vramplan.tui.theme import VERDICTS
from vramplan.tui.widgets.budget_bar import BudgetBar
from vramplan.tui.widgets.budget_table import BudgetTable, headline
from vramplan.tui.widgets.row_table import RowTable


class CompareScreen(StepScreen):
    """Each method with the same options: peak, up to, headroom, verdict; below, why."""

    step = "compare"

    def __init__(self) -> None:
        super().__init__()
        self._asked: Choice | None = None
        self._rows: tuple[Compared, ...] = ()

    def body(self) -> Iterable[Widget]:
        with Container(classes="columns"):
            yield RowTable(
                "method", "ckpt", "optimizer", ">GiB", ">up to", ">headroom", "verdict", takes=True, id="methods"
            )
            with Vertical():
                yield Static("", id="headline", markup=False)
                yield BudgetBar()
                yield BudgetTable()

    def on_mount(self) -> None:
        self.query_one(RowTable).focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        choice = state.choice.model_copy(update={"knobs": state.choice.knobs.model_copy(update={"method": None})})
        if choice != self._asked and choice.model is not None:
            self._asked = choice
            self._compare(choice)

    @work(exclusive=True, exit_on_error=False)
    async def _compare(self, choice: Choice) -> None:
        self.query_one("#headline", Static).update("pricing ...")
        try:
            self._rows = await asyncio.to_thread(self.vramplan.core.compare, choice)
        except Exception:
            self._asked, self._rows = None, ()
            self.query_one("#headline", Static).update("no price")
            raise
        finally:
            self.vramplan.narrate("")
        self.query_one(RowTable).show([_row(row) for row in self._rows])
        self.query_one(RowTable).move_cursor(row=0)
        self._show_row(self.query_one(RowTable).cursor_row)

    @on(RowTable.RowHighlighted)
    def _highlighted(self, event: RowTable.RowHighlighted) -> None:
        self._show_row(event.cursor_row)

    def _show_row(self, at: int) -> None:
        if not 0 <= at < len(self._rows):
            return
        row = self._rows[at]
        self.query_one("#headline", Static).update(headline(row.candidate) if row.candidate else "no price")
        self.query_one(BudgetBar).show(row.candidate)
        self.query_one(BudgetTable).show(row.candidate, row.notes)

    @on(RowTable.RowSelected)
    def _selected(self, event: RowTable.RowSelected) -> None:
        if not 0 <= event.cursor_row < len(self._rows):
            return
        candidate = self._rows[event.cursor_row].candidate
        if candidate is None:
            self.notice.say("this method has no price, so there is nothing to plan")
            return
        self.post_message(KnobsChanged(_taken(self.vramplan.state, candidate)))
        self.call_later(self.vramplan.action_go, "plan")


def _taken(state: State, candidate: Candidate) -> Knobs:
    """The knobs turned to what makes this candidate; what is so already is left as it is."""
    setup = candidate.setup
    wanted = {
        "gradient_checkpointing": setup.gradient_checkpointing,
        "optimizer": setup.optimizer,
        "micro_batch": setup.micro_batch_size,
    }
    changed = {
        knob.name: wanted[knob.name]
        for knob in KNOBS
        if knob.name in wanted and in_force(knob, state.choice.knobs, state.priced) != wanted[knob.name]
    }
    return state.choice.knobs.model_copy(update={"method": setup.method.kind, **changed})


def _row(row: Compared) -> tuple[str | Text, ...]:
    candidate = row.candidate
    if candidate is None:
        return (row.notes[0].partition(":")[0], "", "", "–", "–", "–", "no price")
    word, colour = VERDICTS[candidate.verdict]
    setup, budget = candidate.setup, candidate.budget
    return (
        method_words(setup.method),
        "on" if setup.gradient_checkpointing else "off",
        setup.optimizer,
        gib(budget.process_bytes),
        gib(budget.high_process_bytes),
        gib(candidate.headroom_bytes),
        cell(word, style=f"bold {colour}"),
    )
