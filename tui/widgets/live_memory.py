"""Memory as the run reports it, each kind against its own estimate: allocated, reserved and process never mix."""

from textual.content import Content
from textual.widget import Widget

from vramplan.executor.events import Step
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.units import format_bytes
from vramplan.tui.layout import left_of, share_cells
from vramplan.tui.theme import GREY, SKY, VERMILLION

LABEL_WIDTH = 53


class LiveMemory(Widget):
    """Three meters; a full one has reached its upper bound, and one beyond it says so."""

    def __init__(self) -> None:
        super().__init__(id="live-memory")
        self._budget: MemoryBudget | None = None
        self._step: Step | None = None

    def show(self, budget: MemoryBudget, step: Step | None) -> None:
        """Draw the last reading against this budget."""
        self._budget, self._step = budget, step
        self.refresh()

    def render(self) -> Content:
        budget, step = self._budget, self._step
        if budget is None:
            return Content("")
        rows = (
            (
                "allocated",
                step.allocated_bytes if step else None,
                budget.peak_allocated_bytes,
                budget.peak_allocated_bytes,
            ),
            ("reserved", step.reserved_bytes if step else None, budget.peak_reserved_bytes, budget.high_reserved_bytes),
            ("process", step.process_bytes if step else None, budget.process_bytes, budget.high_process_bytes),
        )
        return Content("\n").join(_meter(*row, width=self.size.width) for row in rows)


def _meter(name: str, now: int | None, estimate: int, high: int, *, width: int) -> Content:
    label = f"{name:<10}{'–' if now is None else format_bytes(now):>10} of {format_bytes(estimate)}"
    label += f" up to {format_bytes(high)}" if high != estimate else ""
    label = f"{label:<{LABEL_WIDTH}}"
    room = max(4, width - len(label))
    if now is None:
        return Content(label) + Content.styled("not measured", GREY)
    if now > high:
        return Content(label) + Content.styled("over the estimate"[:room], f"bold {VERMILLION}")
    used, free = share_cells([now, left_of(high, now)], room)
    return Content(label) + Content.styled("█" * used, SKY) + Content.styled("─" * free, GREY)
