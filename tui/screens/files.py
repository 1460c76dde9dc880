"""A box that asks for a file: a path typed, or one taken from the list of what is there."""

from collections.abc import Iterable

from textual import events, on, work
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from vramplan.tui.bindings import bindings
from vramplan.tui.choice import Entry
from vramplan.tui.core import Core
from vramplan.tui.live_finished import DATA_SUFFIXES
from vramplan.tui.text import line
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.row_table import RowTable


class FilePicker(ModalScreen[str | None]):
    """Dismisses with a path, with an empty text for none, or with None on esc."""

    BINDINGS = bindings("dialog")

    def __init__(
        self,
        core: Core,
        now: str = "",
        *,
        title: str = "training file (empty: none)",
        suffixes: tuple[str, ...] = DATA_SUFFIXES,
    ) -> None:
        super().__init__()
        self._core, self._now, self._title, self._suffixes = core, now, title, suffixes
        self._listed: tuple[str, ...] = ()

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            yield Static(line(self._title), classes="title", markup=False)
            yield Input(self._now, placeholder="a path; the list shows what is there", compact=True)
            yield RowTable("", ">size", takes=True, id="files")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self._list(self._now)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        self._list(event.value)

    @work(exclusive=True, exit_on_error=False)
    async def _list(self, text: str) -> None:
        """The folder as far as the text names one, and what of it begins with the rest."""
        folder, slash, start = text.rpartition("/")
        entries = await in_thread(self._core.entries, folder + slash, self._suffixes)
        shown = [each for each in _above(folder + slash, entries) if each.name.lower().startswith(start.lower())]
        self._listed = tuple(folder + slash + each.name for each in shown)
        self.query_one(RowTable).show([(each.name, each.size) for each in shown])

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        self.dismiss(event.value.strip())

    @on(RowTable.RowSelected)
    def _selected(self, event: RowTable.RowSelected) -> None:
        if not 0 <= event.cursor_row < len(self._listed):
            return
        path = self._listed[event.cursor_row]
        if path.endswith("/"):
            self.query_one(Input).value = path
        else:
            self.dismiss(path)

    def on_key(self, event: events.Key) -> None:
        """The arrow leads from the box into the list."""
        if event.key == "down" and isinstance(self.focused, Input):
            self.query_one(RowTable).focus()
            event.stop()


def _above(folder: str, entries: tuple[Entry, ...]) -> Iterable[Entry]:
    """The way up first."""
    return (*([] if folder == "/" else [Entry(name="../", size="")]), *entries)
