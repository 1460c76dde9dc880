"""One stacked bar a phase: what is allocated at its highest point, all on one scale."""

from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.widget import Widget

from vramplan.planner.memory.budget import MemoryBudget, PhaseBudget
from vramplan.planner.units import format_bytes
from vramplan.tui.theme import COMPONENTS, GREY
from vramplan.tui.widgets.budget_bar import share_cells

NAME_WIDTH, SIZE_WIDTH = 16, 11


class PhaseBars(VerticalScroll, can_focus=True):
    """Every phase, then what the glyphs mean; scrolls when there are more than room."""

    def compose(self) -> ComposeResult:
        yield _Bars()

    def show(self, budget: MemoryBudget | None, available_bytes: int | None) -> None:
        """Draw the phases of this budget against what is available; None draws nothing."""
        self.query_one(_Bars).show(budget, available_bytes)


class _Bars(Widget):
    def __init__(self) -> None:
        super().__init__()
        self._budget: MemoryBudget | None = None
        self._available: int | None = None

    def show(self, budget: MemoryBudget | None, available_bytes: int | None) -> None:
        self._budget, self._available = budget, available_bytes
        self.refresh(layout=True)

    def render(self) -> Content:
        budget = self._budget
        if budget is None:
            return Content("")
        room = self.size.width - NAME_WIDTH - SIZE_WIDTH - 2
        scale = max([self._available or 0, *(phase.allocated_bytes for phase in budget.phases)])
        rows = [_row(phase, phase.name == budget.peak_phase, scale, room) for phase in budget.phases]
        return Content("\n").join([*rows, Content(""), *_legend(budget)])


def _row(phase: PhaseBudget, is_peak: bool, scale: int, room: int) -> Content:
    name = ("› " if is_peak else "  ") + phase.name.replace("_", " ")
    lines = sorted(phase.lines, key=lambda line: list(COMPONENTS).index(line.component))
    free_bytes = max(0, scale - phase.allocated_bytes)
    *cells, free = share_cells([*(line.estimate_bytes for line in lines), free_bytes], max(0, room))
    parts = [
        Content.styled(f"{name:<{NAME_WIDTH}}{format_bytes(phase.allocated_bytes):>{SIZE_WIDTH}}  ", "bold" * is_peak)
    ]
    for line, width in zip(lines, cells, strict=True):
        glyph, colour = COMPONENTS[line.component]
        parts.append(Content.styled(glyph * width, colour))
    return Content("").join([*parts, Content.styled("─" * free, GREY)])


def _legend(budget: MemoryBudget) -> list[Content]:
    used = {line.component for phase in budget.phases for line in phase.lines}
    parts = [
        Content.styled(glyph, colour) + Content(f" {name.replace('_', ' ')}")
        for name, (glyph, colour) in COMPONENTS.items()
        if name in used
    ]
    return [Content("  ").join(parts), Content.styled("› the highest that counts; ─ free", "dim")]
