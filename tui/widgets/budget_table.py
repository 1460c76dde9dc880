"""The lines under the bar: each component's bytes, up to how many, and because of what."""

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.render import plain
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.units import format_bytes, format_gib
from vramplan.tui.text import cell
from vramplan.tui.theme import COMPONENTS, VERDICTS
from vramplan.tui.widgets.budget_bar import peak_lines


class BudgetTable(VerticalScroll, can_focus=True):
    """Largest first; scrolls when there are more lines than room."""

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def show(self, candidate: Candidate | None, notes: tuple[str, ...] = ()) -> None:
        """Draw this candidate's lines, its verdict in words and any notes."""
        self.query_one(Static).update("" if candidate is None and not notes else _table(candidate, notes))


def headline(candidate: Candidate) -> Text:
    """``fits   peak 11.61  up to 12.75  headroom 10.49 GiB in backward``"""
    budget = candidate.budget
    word, colour = VERDICTS[candidate.verdict]
    text = Text().append(word, f"bold {colour}").append(f"   peak {format_gib(budget.process_bytes)}")
    text.append(f"  up to {format_gib(budget.high_process_bytes)}")
    if candidate.headroom_bytes is not None:
        text.append(f"  headroom {format_gib(candidate.headroom_bytes)}")
    return text.append(f" GiB in {budget.peak_phase.replace('_', ' ')}")


def _table(candidate: Candidate | None, notes: tuple[str, ...]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    if candidate is not None:
        _budget_rows(table, candidate.budget)
        notes = (candidate.verdict_reason, *notes, *candidate.warnings)
    for note in notes:
        if note:
            table.add_row("", cell("why", style="bold"), "", "", Text(plain(note)))
    return table


def _budget_rows(table: Table, budget: MemoryBudget) -> None:
    for line in sorted(peak_lines(budget), key=lambda line: line.estimate_bytes, reverse=True):
        glyph, colour = COMPONENTS[line.component]
        table.add_row(
            Text(glyph, colour),
            line.component.replace("_", " "),
            format_bytes(line.estimate_bytes),
            Text("" if line.high_bytes == line.estimate_bytes else f"≤ {format_bytes(line.high_bytes)}", "dim"),
            Text(plain(line.because), "dim"),
        )
