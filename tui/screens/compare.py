"""Screen 3: the methods side by side, those that do not fit included."""

from collections.abc import Callable, Iterable

from rich.text import Text
from textual import on, work
from textual.containers import Container, Vertical
from textual.widget import Widget
from textual.widgets import Static

from vramplan.planner.cli.ledger import method_words, sharing_words
from vramplan.planner.cli.timing import figure
from vramplan.planner.throughput.values import Range
from vramplan.planner.units import format_count
from vramplan.tui.bindings import bindings
from vramplan.tui.choice import Choice, Compared, Knobs
from vramplan.tui.command_line import recommend_command
from vramplan.tui.messages import KnobsChanged
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import cell, gib
from vramplan.tui.theme import VERDICTS
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.budget_bar import BudgetBar
from vramplan.tui.widgets.budget_table import BudgetTable, headline
from vramplan.tui.widgets.row_table import RowTable

COLUMNS = (
    "method", ">GiB", ">up to", ">headroom", "verdict", ">tokens/s", ">hours", ">USD", ">trains",
    ">batch", "ckpt", "optimizer",
)  # fmt: skip
SORTS: tuple[tuple[str, Callable[[Compared], float | None]], ...] = (
    ("best first", lambda row: None),
    ("least memory first", lambda row: row.candidate.budget.high_process_bytes if row.candidate else None),
    ("fastest first", lambda row: row.candidate.time.seconds.typical if row.candidate and row.candidate.time else None),
    ("shortest run first", lambda row: row.cost.hours.typical if row.cost.hours else None),
    ("cheapest first", lambda row: row.cost.usd.typical if row.cost.usd else None),
    ("fewest trained first", lambda row: row.candidate.trainable_params if row.candidate else None),
)
"""Orders a person can ask for: what each is called, and by what it sorts; what is not known comes last."""


class CompareScreen(StepScreen):
    """Each method with the same options: memory, verdict, speed, cost; below, why."""

    step = "compare"
    scopes = ("compare",)
    BINDINGS = bindings("compare")

    def __init__(self) -> None:
        super().__init__()
        self._asked: Choice | None = None
        self._found: tuple[Compared, ...] = ()
        self._rows: tuple[Compared, ...] = ()
        self._sort = 0
        self._only_fits = False

    def body(self) -> Iterable[Widget]:
        with Container(classes="columns"):
            yield RowTable(*COLUMNS, takes=True, id="methods")
            with Vertical():
                yield Static("", id="headline", markup=False)
                yield BudgetBar()
                yield BudgetTable()

    def command(self) -> str | None:
        choice = self.vramplan.state.choice
        return None if choice.model is None else recommend_command(choice)

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
            self._found = await in_thread(self.vramplan.core.compare, choice)
        except Exception:
            self._asked, self._found, self._rows = None, (), ()
            self.query_one("#headline", Static).update("no price")
            raise
        finally:
            self.vramplan.narrate("")
        self._show_rows()

    def _show_rows(self) -> None:
        """The rows in the order asked for, the cursor on the first."""
        key = SORTS[self._sort][1]
        kept = (
            row for row in self._found if not self._only_fits or (row.candidate and row.candidate.verdict == "fits")
        )
        self._rows = tuple(sorted(kept, key=lambda row: ((value := key(row)) is None, value or 0)))
        table = self.query_one(RowTable)
        table.show([_row(row) for row in self._rows])
        table.move_cursor(row=0)
        self._show_row(table.cursor_row)

    def action_sort(self) -> None:
        """The next order."""
        self._sort = (self._sort + 1) % len(SORTS)
        self._show_rows()
        self.notice.say(f"sorted: {SORTS[self._sort][0]}")

    def action_only_fits(self) -> None:
        """Only what fits, or all."""
        self._only_fits = not self._only_fits
        self._show_rows()
        self.notice.say(f"only what fits: {len(self._rows)} of {len(self._found)}" if self._only_fits else "all rows")

    @on(RowTable.RowHighlighted)
    def _highlighted(self, event: RowTable.RowHighlighted) -> None:
        self._show_row(event.cursor_row)

    def _show_row(self, at: int) -> None:
        if not 0 <= at < len(self._rows):
            return
        row = self._rows[at]
        self.query_one("#headline", Static).update(headline(row.candidate) if row.candidate else "no price")
        candidate = row.candidate
        self.query_one(BudgetBar).show(
            candidate.budget if candidate else None, candidate.available_bytes if candidate else None
        )
        self.query_one(BudgetTable).show(candidate, row.notes, row.cost if candidate else None)

    @on(RowTable.RowSelected)
    def _selected(self, event: RowTable.RowSelected) -> None:
        if not 0 <= event.cursor_row < len(self._rows):
            return
        candidate = self._rows[event.cursor_row].candidate
        if candidate is None:
            self.notice.say("this method has no price, so there is nothing to plan")
            return
        self.post_message(KnobsChanged(_taken(self.vramplan.state.choice.knobs, self._rows[event.cursor_row])))
        self.call_later(self.vramplan.action_go, "plan")


def _taken(knobs: Knobs, row: Compared) -> Knobs:
    """The knobs turned to what makes this row."""
    made = {name: value for name, value in row.options.items() if name in Knobs.model_fields}
    return knobs.for_method(str(row.options["method"])).model_copy(update=made)


def _row(row: Compared) -> tuple[str | Text, ...]:
    candidate = row.candidate
    if candidate is None:
        return (row.notes[0].partition(" ")[0].rstrip(":"), "–", "–", "–", "no price", *[""] * 7)
    word, colour = VERDICTS[candidate.verdict]
    setup, budget = candidate.setup, candidate.budget
    return (
        ", ".join([method_words(setup.method), *sharing_words(setup)]),
        gib(budget.process_bytes),
        gib(budget.high_process_bytes),
        gib(candidate.headroom_bytes),
        cell(word, style=f"bold {colour}"),
        "–" if candidate.time is None else f"{candidate.time.tokens_per_second.typical:,.0f}",
        _typical(row.cost.hours),
        _typical(row.cost.usd),
        format_count(candidate.trainable_params),
        str(setup.micro_batch_size),
        "on" if setup.gradient_checkpointing else "off",
        setup.optimizer,
    )


def _typical(found: Range | None) -> str:
    return "–" if found is None else figure(found.typical)
