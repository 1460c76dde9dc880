"""Screen 2: the options, and what they cost, priced anew at every change."""

from collections.abc import Iterable

from textual.containers import Container, Vertical
from textual.widget import Widget
from textual.widgets import Static

from vramplan.tui.bindings import bindings
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.widgets.budget_bar import BudgetBar
from vramplan.tui.widgets.budget_table import BudgetTable, headline
from vramplan.tui.widgets.knob_list import KnobList


class SetupScreen(StepScreen):
    """Turn the options and watch the budget."""

    step = "setup"
    BINDINGS = bindings("setup")

    def body(self) -> Iterable[Widget]:
        with Container(classes="columns"):
            yield KnobList()
            with Vertical():
                yield Static(id="headline", markup=False)
                yield BudgetBar()
                yield BudgetTable()

    def on_mount(self) -> None:
        self.query_one(KnobList).focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        priced = state.priced
        self.query_one(KnobList).show(state.choice.knobs, priced)
        if priced is not None:
            self.query_one("#headline", Static).update(headline(priced.candidate))
        else:
            self.query_one("#headline", Static).update("no price" if state.price_error else "pricing ...")
        if priced is not None or state.price_error:
            candidate = priced.candidate if priced is not None else None
            self.query_one(BudgetBar).show(candidate)
            self.query_one(BudgetTable).show(candidate, (state.price_error,))
