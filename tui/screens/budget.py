"""Screen 2: the options, and what they cost: every change is priced at once."""

from collections.abc import Iterable

from rich.text import Text
from textual.containers import Container, Vertical
from textual.widget import Widget
from textual.widgets import Static

from vramplan.tui.bindings import bindings
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.widgets.budget_bar import BudgetBar
from vramplan.tui.widgets.budget_table import BudgetTable, glance_headline, headline
from vramplan.tui.widgets.course_chart import CourseChart
from vramplan.tui.widgets.knob_list import KnobList
from vramplan.tui.widgets.phase_bars import PhaseBars
from vramplan.tui.widgets.tensor_table import TensorTable
from vramplan.tui.widgets.view_bar import ViewBar

VIEWS = ("ledger", "phases", "tensors", "step")


class BudgetScreen(StepScreen):
    """Turn the options and watch the budget: by component, by phase, by tensor, along one step."""

    step = "budget"
    scopes = ("budget", "knobs")
    BINDINGS = bindings("budget")

    def __init__(self) -> None:
        super().__init__()
        self._view = VIEWS[0]

    def body(self) -> Iterable[Widget]:
        with Container(classes="columns"):
            yield KnobList()
            with Vertical():
                yield Static(id="headline", markup=False)
                yield BudgetBar()
                yield ViewBar(VIEWS)
                yield BudgetTable(id="ledger")
                yield PhaseBars(id="phases")
                yield TensorTable(id="tensors")
                yield CourseChart(id="step")

    def on_mount(self) -> None:
        self.query_one(KnobList).focus()
        self.show_view(self._view)

    def action_next_view(self) -> None:
        """The next way to look at the budget."""
        self.show_view(VIEWS[(VIEWS.index(self._view) + 1) % len(VIEWS)])

    def action_view(self, name: str) -> None:
        """One way to look at the budget, by name."""
        self.show_view(name)

    def show_view(self, name: str) -> None:
        """Show one of the views and hide the others."""
        self._view = name
        for view in VIEWS:
            self.query_one(f"#{view}").display = view == name
        self.query_one(ViewBar).show(name)
        self._show_figures(self.vramplan.state)

    def show_state(self, state: State) -> None:
        super().show_state(state)
        self.query_one(KnobList).show(state.choice.knobs, state.priced)
        self._show_figures(state)

    def _show_figures(self, state: State) -> None:
        """The bar, and of the views the one in sight: what is not seen is not drawn."""
        candidate, glance = None if state.priced is None else state.priced.candidate, state.glance
        priced = None if state.price_error else candidate or glance
        if priced is None and not state.price_error and not state.slow:
            return  # there is something to draw in a moment
        self.query_one("#headline", Static).update(_headline(state), layout=False)
        budget = None if priced is None else priced.budget
        available_bytes = None if priced is None else priced.available_bytes
        self.query_one(BudgetBar).show(budget, available_bytes)
        match self._view:
            case "ledger" if candidate is None and budget is not None:
                self.query_one(BudgetTable).show_budget(budget)
            case "ledger":
                cost = None if state.priced is None else state.priced.cost
                notes = (state.price_error,) if state.priced is None else state.priced.stages
                self.query_one(BudgetTable).show(candidate, notes, cost)
            case "phases":
                self.query_one(PhaseBars).show(budget, available_bytes)
            case "tensors" if candidate is not None or budget is None:  # their names come with the price
                self.query_one(TensorTable).show(candidate.budget.peak_tensors if candidate else ())
            case "step":
                self.query_one(CourseChart).show(glance.course if glance else (), available_bytes)


def _headline(state: State) -> Text:
    if state.priced is not None:
        return headline(state.priced.candidate)
    if state.price_error:
        return Text("no price")
    return Text("pricing ...") if state.glance is None else glance_headline(state.glance)
