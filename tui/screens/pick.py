"""A box that asks for one of a few things."""

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from vramplan.tui.bindings import bindings
from vramplan.tui.text import line
from vramplan.tui.widgets.row_table import RowTable


class Pick(ModalScreen[str | None]):
    """Dismisses with a name, or with None on esc."""

    BINDINGS = bindings("dialog")

    def __init__(self, title: str, choices: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        self._title, self._choices = title, choices

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(line(self._title), classes="title", markup=False)
            yield RowTable("", "", takes=True, id="choices")

    def on_mount(self) -> None:
        table = self.query_one(RowTable)
        table.show(self._choices)
        table.focus()

    @on(RowTable.RowSelected)
    def _selected(self, event: RowTable.RowSelected) -> None:
        if 0 <= event.cursor_row < len(self._choices):
            self.dismiss(self._choices[event.cursor_row][0])
