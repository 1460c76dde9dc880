"""Screen 2: the options, and what they cost: every change is priced at once."""

from collections.abc import Iterable

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

    def show_state(self, state: State) -> None:
        super().show_state(state)
        self.query_one(KnobList).show(state.choice.knobs, state.priced)
        if state.priced is not None:
            self._show_price(state)
        elif state.price_error:
            self._show_nothing(state.price_error)
        elif state.glance is not None:
            self._show_glance(state)
        else:
            self.query_one("#headline", Static).update("pricing ...", layout=False)
        if state.glance is not None:
            self.query_one(CourseChart).show(state.glance.course, state.glance.available_bytes)

    def _show_price(self, state: State) -> None:
        assert state.priced is not None
        candidate = state.priced.candidate
        self.query_one("#headline", Static).update(headline(candidate), layout=False)
        self.query_one(BudgetBar).show(candidate.budget, candidate.available_bytes)
        self.query_one(BudgetTable).show(candidate, cost=state.priced.cost)
        self.query_one(PhaseBars).show(candidate.budget, candidate.available_bytes)
        self.query_one(TensorTable).show(candidate.budget.peak_tensors)

    def _show_glance(self, state: State) -> None:
        """What is allocated, while the allocator is replayed; the tensors' names come with the price."""
        glance = state.glance
        assert glance is not None
        self.query_one("#headline", Static).update(glance_headline(glance), layout=False)
        self.query_one(BudgetBar).show(glance.budget, glance.available_bytes)
        self.query_one(BudgetTable).show_budget(glance.budget)
        self.query_one(PhaseBars).show(glance.budget, glance.available_bytes)

    def _show_nothing(self, why: str) -> None:
        self.query_one("#headline", Static).update("no price")
        self.query_one(BudgetBar).show(None, None)
        self.query_one(BudgetTable).show(None, (why,))
        self.query_one(PhaseBars).show(None, None)
        self.query_one(TensorTable).show(())
        self.query_one(CourseChart).show((), None)
