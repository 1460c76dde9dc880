"""The keys, from the one table that makes them."""

from rich.table import Table
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from vramplan.tui.bindings import ACTIONS, TITLES, Scope, bindings, key_names


class Help(ModalScreen[None]):
    """Every key, by where it works; those of the screen it is asked from come first."""

    BINDINGS = bindings("help")

    def __init__(self, here: tuple[Scope, ...]) -> None:
        super().__init__()
        self._here = here

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(_keys(self._here), markup=False)


def _keys(here: tuple[Scope, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for scope in (*here, *(scope for scope in TITLES if scope not in here)):
        table.add_row(f"[bold]{TITLES[scope]}[/]")
        for action in ACTIONS:
            if action.scope == scope:
                table.add_row(f"  {key_names(action.keys)}", action.help)
    table.add_row("  ctrl+p", "command palette")
    return table
