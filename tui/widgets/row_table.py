"""A table whose rows are walked with j, k, g, G or the arrows, and whose cells are literal text."""

from collections.abc import Sequence

from rich.text import Text
from textual.widgets import DataTable

from vramplan.tui.bindings import bindings
from vramplan.tui.text import cell


class RowTable(DataTable[Text]):
    """Columns whose name starts with ``>`` are right-aligned; ``takes`` offers enter to take a row."""

    BINDINGS = bindings("list")

    def __init__(self, *columns: str, takes: bool = False, id: str | None = None) -> None:
        super().__init__(id=id, cursor_type="row", zebra_stripes=False, cell_padding=1)
        self._takes = takes
        self._right = tuple(name.startswith(">") for name in columns)
        self._names = tuple(name.lstrip(">") for name in columns)

    def on_mount(self) -> None:
        for name, right in zip(self._names, self._right, strict=True):
            self.add_column(cell(name, right=right, style="bold"))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Where there is nothing to take, enter is not offered."""
        return self._takes or action != "select_cursor"

    def show(self, rows: Sequence[Sequence[str | Text]]) -> None:
        """Replace all rows, keeping the cursor where it was if there still is such a row."""
        at = self.cursor_row
        self.clear()
        for column in self.ordered_columns:
            column.content_width = column.label.cell_len
        for row in rows:
            self.append(row)
        if rows:
            self.move_cursor(row=min(at, len(rows) - 1))

    def append(self, row: Sequence[str | Text]) -> None:
        """Add one row; strings are shown literally."""
        cells = [
            value if isinstance(value, Text) else cell(value, right=right)
            for value, right in zip(row, self._right, strict=True)
        ]
        # DataTable measures new rows when it is idle; a line painted before that stays cut off until it changes.
        for column, text in zip(self.ordered_columns, cells, strict=True):
            column.content_width = max(column.content_width, text.cell_len)
        self.add_row(*cells)
