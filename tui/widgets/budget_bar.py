"""The stacked bar of a memory budget against what is available."""

from textual.content import Content
from textual.widget import Widget

from vramplan.planner.memory.budget import BudgetLine, Component, MemoryBudget
from vramplan.tui.layout import all_of, left_of, share_cells
from vramplan.tui.theme import COMPONENTS, GREY, UP_TO_GLYPH, VERMILLION


def peak_lines(budget: MemoryBudget) -> tuple[BudgetLine, ...]:
    """Every line of the peak, the tensors' and the process's own, in the order the bar stacks them."""
    lines = [line for phase in budget.phases if phase.name == budget.peak_phase for line in phase.lines]
    order = list(COMPONENTS)
    return tuple(sorted([*lines, *budget.process_lines], key=lambda line: order.index(line.component)))


class BudgetBar(Widget):
    """One line: a glyph per component, ``·`` up to the upper bound, ``─`` for what stays free, ``│`` at the limit."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._budget: MemoryBudget | None = None
        self._available: int | None = None

    def show(self, budget: MemoryBudget | None, available_bytes: int | None) -> None:
        """Draw this budget against what is available; None draws an empty line."""
        self._budget, self._available = budget, available_bytes
        self.refresh()

    def render(self) -> Content:
        if self._budget is None:
            return Content("")
        return _bar(self._budget, self._available, self.size.width)


def _bar(budget: MemoryBudget, available_bytes: int | None, width: int) -> Content:
    lines = peak_lines(budget)
    estimate = all_of(line.estimate_bytes for line in lines)
    up_to = left_of(budget.high_process_bytes, estimate)
    limit = available_bytes or 0
    free = left_of(limit, estimate, up_to)
    shares = share_cells([*(line.estimate_bytes for line in lines), up_to, free], width)
    styles: list[tuple[str, str]] = [COMPONENTS[_component(line)] for line in lines]
    styles += [(UP_TO_GLYPH, GREY), ("─", GREY)]
    glyphs = [style for style, cells in zip(styles, shares, strict=True) for _ in range(cells)]
    over = left_of(all_of((estimate, up_to)), limit)
    if limit and over:
        at = share_cells([limit, over], width)[0]
        glyphs[min(at, width - 1)] = ("│", f"bold {VERMILLION}")
    return Content("").join(Content.styled(glyph, style) if style else Content(glyph) for glyph, style in glyphs)


def _component(line: BudgetLine) -> Component:
    return line.component
