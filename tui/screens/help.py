"""The keys, from the one table that makes them."""

from rich.table import Table
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

from vramplan.tui.bindings import ACTIONS, Scope, bindings

TITLES: dict[Scope, str] = {
    "app": "everywhere",
    "list": "in a table",
    "model": "1 Model",
    "knobs": "2 Setup, on the options",
    "setup": "2 Setup",
    "plan": "4 Plan",
    "run": "5 Run",
    "dialog": "in a box",
    "question": "in a question",
}
KEY_NAMES = {"slash": "/", "question_mark": "?", "escape": "esc"}


class Help(ModalScreen[None]):
    """Every key, by where it works."""

    BINDINGS = bindings("help")

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(_keys(), markup=False)


def _keys() -> Table:
    table = Table.grid(padding=(0, 2))
    for scope, title in TITLES.items():
        table.add_row(f"[bold]{title}[/]")
        for action in ACTIONS:
            if action.scope == scope:
                table.add_row(f"  {_names(action.keys)}", action.help)
    table.add_row("  ctrl+p", "command palette")
    return table


def _names(keys: str) -> str:
    return " ".join(KEY_NAMES.get(key, key) for key in keys.split(","))
