"""The lines under the bar: each component's bytes, up to how many, and because of what."""

from textwrap import wrap
from typing import NamedTuple

from rich.text import Text
from textual.content import Content

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.glance import Glance
from vramplan.planner.cli.render import plain
from vramplan.planner.cli.timing import run_words, step_words
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.throughput.values import RunCost
from vramplan.planner.units import format_bytes, format_gib
from vramplan.tui.theme import COMPONENTS, VERDICTS
from vramplan.tui.widgets.budget_bar import peak_lines
from vramplan.tui.widgets.lines import Lines


class BudgetTable(Lines):
    """Largest first, then notes; scrolls when there are more lines than room."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._rows: tuple[_Row, ...] = ()

    def show(self, candidate: Candidate | None, notes: tuple[str, ...] = (), cost: RunCost | None = None) -> None:
        """Draw this candidate's lines, its verdict in words, any notes, its time and what a run costs."""
        rows: list[_Row] = []
        if candidate is not None:
            rows += _ledger(candidate.budget)
            notes = (candidate.verdict_reason, *notes, *candidate.warnings)
        rows += [_Row("", "", "why", ("", "", ""), note) for note in notes if note]
        if candidate is not None:
            unknown = candidate.time_unknown_because
            said = step_words(candidate.time) if candidate.time else f"unknown: {unknown}" if unknown else ""
            rows += [_Row("", "", "time", ("", "", ""), said)] if said else []
        world_size = 1 if candidate is None else candidate.setup.world_size
        if cost is not None and (said := run_words(cost, world_size)):
            rows.append(_Row("", "", "run", ("", "", ""), said))
        self._draw(tuple(rows))

    def show_budget(self, budget: MemoryBudget) -> None:
        """Draw the lines alone, until there is more to say."""
        self._draw(tuple(_ledger(budget)), for_now=True)

    def on_resize(self) -> None:
        """The reasons are folded to the width there is."""
        self._draw(self._rows)

    def _draw(self, rows: tuple["_Row", ...], *, for_now: bool = False) -> None:
        self._rows = rows
        self.show_lines(_lines(rows, self.scrollable_content_region.width), for_now=for_now)


class _Row(NamedTuple):
    glyph: str
    colour: str
    name: str
    figures: tuple[str, str, str]
    because: str


def _ledger(budget: MemoryBudget) -> list[_Row]:
    return [
        _Row(
            *COMPONENTS[line.component],
            line.component.replace("_", " "),
            (
                format_bytes(line.estimate_bytes),
                f"{line.bytes_per_param:.2f} B/param" if line.bytes_per_param >= 0.005 else "",
                "" if line.high_bytes == line.estimate_bytes else f"≤ {format_bytes(line.high_bytes)}",
            ),
            line.because,
        )
        for line in sorted(peak_lines(budget), key=lambda line: line.estimate_bytes, reverse=True)
    ]


def _lines(rows: tuple[_Row, ...], width: int) -> list[Content]:
    names = max((len(row.name) for row in rows), default=0)
    figures = [max((len(row.figures[column]) for row in rows), default=0) for column in range(3)]
    lines: list[Content] = []
    for row in rows:
        cells = "".join(f"{text:>{size}} " for text, size in zip(row.figures, figures, strict=True) if size)
        left = f" {row.name:<{names}} {cells}"
        first, *more = wrap(plain(row.because), max(16, width - len(left) - 2)) or [""]
        style = "dim" if row.glyph else ""
        lines.append(
            Content.assemble(
                (row.glyph, row.colour) if row.glyph else " ",
                left if row.glyph else (left, "bold"),
                " ",
                (first, style),
            )
        )
        lines += [Content.styled(" " * (len(left) + 2) + each, style) for each in more]
    return lines


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
