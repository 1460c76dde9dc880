"""The tensors alive at the highest point of a step, static ones apart, largest first."""

from rich.table import Table
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from vramplan.planner.cli.render import plain
from vramplan.planner.memory.budget import LiveTensor
from vramplan.planner.units import format_bytes
from vramplan.tui.theme import COMPONENTS


class TensorTable(VerticalScroll, can_focus=True):
    """Scrolls when there are more lines than room."""

    def compose(self) -> ComposeResult:
        yield Static(markup=False)

    def show(self, tensors: tuple[LiveTensor, ...]) -> None:
        """Draw these tensors."""
        self.query_one(Static).update(_table(tensors) if tensors else "nothing lives inside the step")


def _table(tensors: tuple[LiveTensor, ...]) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column()
    table.add_column(justify="right", no_wrap=True)
    table.add_column(justify="right", no_wrap=True, style="dim")
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold", style="dim")
    for tensor in tensors:
        glyph, colour = COMPONENTS[tensor.component]
        table.add_row(
            Text(glyph, colour),
            format_bytes(tensor.total_bytes),
            f"{tensor.count} ×",
            Text(plain(tensor.shape)),
            Text(plain(tensor.label)),
        )
    return table
