"""The lines under the bar: each component's bytes, up to how many, and because of what."""

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.glance import Glance
from vramplan.planner.cli.render import plain
from vramplan.planner.cli.timing import run_words, step_words
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.throughput.values import RunCost
from vramplan.planner.units import format_bytes, format_gib
from vramplan.tui.text import cell
from vramplan.tui.theme import COMPONENTS, VERDICTS
from vramplan.tui.widgets.budget_bar import peak_lines


class BudgetTable(VerticalScroll, can_focus=True):
    """Largest first; scrolls when there are more lines than room."""

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def show(self, candidate: Candidate | None, notes: tuple[str, ...] = (), cost: RunCost | None = None) -> None:
        """Draw this candidate's lines, its verdict in words, any notes, its time and what a run costs."""
        table = _table()
        if candidate is not None:
            _budget_rows(table, candidate.budget)
            notes = (candidate.verdict_reason, *notes, *candidate.warnings)
        for note in notes:
            _note(table, "why", note)
        if candidate is not None:
            unknown = candidate.time_unknown_because
            said = step_words(candidate.time) if candidate.time else f"unknown: {unknown}" if unknown else ""
            _note(table, "time", said)
        if cost is not None:
            _note(table, "run", run_words(cost))
        self.query_one(Static).update(table if table.row_count else "")

    def show_budget(self, budget: MemoryBudget) -> None:
        """Draw the lines alone."""
        table = _table()
        _budget_rows(table, budget)
        self.query_one(Static).update(table)


def headline(candidate: Candidate) -> Text:
    """``fits   peak 11.61  up to 12.75  headroom 10.49 GiB in backward``"""
    budget = candidate.budget
    word, colour = VERDICTS[candidate.verdict]
    text = Text().append(word, f"bold {colour}").append(f"   peak {format_gib(budget.process_bytes)}")
    text.append(f"  up to {format_gib(budget.high_process_bytes)}")
    if candidate.headroom_bytes is not None:
        text.append(f"  headroom {format_gib(candidate.headroom_bytes)}")
    return text.append(f" GiB in {budget.peak_phase.replace('_', ' ')}")


def glance_headline(glance: Glance) -> Text:
    """``pricing   peak from 11.20 GiB in backward``: the least it can be, before the allocator is replayed."""
    budget = glance.budget
    peak = f"   peak from {format_gib(budget.process_bytes)} GiB in {budget.peak_phase.replace('_', ' ')}"
    return Text().append("pricing", "bold").append(peak)


def _table() -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(no_wrap=True)
    for _ in range(3):
        table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    return table


def _note(table: Table, name: str, text: str) -> None:
    if text:
        table.add_row("", cell(name, style="bold"), "", "", "", Text(plain(text)))


def _budget_rows(table: Table, budget: MemoryBudget) -> None:
    for line in sorted(peak_lines(budget), key=lambda line: line.estimate_bytes, reverse=True):
        glyph, colour = COMPONENTS[line.component]
        table.add_row(
            Text(glyph, colour),
            line.component.replace("_", " "),
            format_bytes(line.estimate_bytes),
            Text(f"{line.bytes_per_param:.2f} B/param" if line.bytes_per_param >= 0.005 else "", "dim"),
            Text("" if line.high_bytes == line.estimate_bytes else f"≤ {format_bytes(line.high_bytes)}", "dim"),
            Text(plain(line.because), "dim"),
        )
