"""One stacked bar a phase: what is allocated at its highest point, all on one scale."""

from textual.content import Content

from vramplan.planner.memory.budget import MemoryBudget, PhaseBudget
from vramplan.planner.units import format_bytes
from vramplan.tui.layout import left_of, share_cells
from vramplan.tui.theme import COMPONENTS, GREY
from vramplan.tui.widgets.lines import Lines

NAME_WIDTH, SIZE_WIDTH = 16, 11


class PhaseBars(Lines):
    """Every phase, then what the glyphs mean; scrolls when there are more than room."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._budget: MemoryBudget | None = None
        self._available: int | None = None

    def show(self, budget: MemoryBudget | None, available_bytes: int | None) -> None:
        """Draw the phases of this budget against what is available; None draws nothing."""
        self._budget, self._available = budget, available_bytes
        self._draw()

    def on_resize(self) -> None:
        """The bars are as long as there is room."""
        self._draw()

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        self.show_lines([] if self._budget is None else _lines(self._budget, self._available, width))


def _lines(budget: MemoryBudget, available_bytes: int | None, width: int) -> list[Content]:
    room = width - NAME_WIDTH - SIZE_WIDTH - 2
    scale = max([available_bytes or 0, *(phase.allocated_bytes for phase in budget.phases)])
    rows = [_row(phase, phase.name == budget.peak_phase, scale, room) for phase in budget.phases]
    return [*rows, Content(""), *_legend(budget, width)]


def _row(phase: PhaseBudget, is_peak: bool, scale: int, room: int) -> Content:
    name = ("› " if is_peak else "  ") + phase.name.replace("_", " ")
    lines = sorted(phase.lines, key=lambda line: list(COMPONENTS).index(line.component))
    free_bytes = left_of(scale, phase.allocated_bytes)
    *cells, free = share_cells([*(line.estimate_bytes for line in lines), free_bytes], max(0, room))
    parts = [
        Content.styled(f"{name:<{NAME_WIDTH}}{format_bytes(phase.allocated_bytes):>{SIZE_WIDTH}}  ", "bold" * is_peak)
    ]
    for line, width in zip(lines, cells, strict=True):
        glyph, colour = COMPONENTS[line.component]
        parts.append(Content.styled(glyph * width, colour))
    return Content("").join([*parts, Content.styled("─" * free, GREY)])


def _legend(budget: MemoryBudget, width: int) -> list[Content]:
    """What each glyph stands for, as many on a line as fit."""
    used = {line.component for phase in budget.phases for line in phase.lines}
    lines: list[Content] = [Content("")]
    for name, (glyph, colour) in COMPONENTS.items():
        if name not in used:
            continue
        entry = Content.styled(glyph, colour) + Content(f" {name.replace('_', ' ')}  ")
        if lines[-1].cell_length + entry.cell_length > width:
            lines.append(Content(""))
        lines[-1] += entry
    return [*lines, Content.styled("› the highest that counts; ─ free", "dim")]
