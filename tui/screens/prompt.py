"""A box that asks for one value."""

from collections.abc import Callable
from typing import Any

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Input, Static

from vramplan.tui.bindings import bindings
from vramplan.tui.text import line


class Prompt(ModalScreen[str | None]):
    """Asks until the text can be read; dismisses with it, or with None on esc."""

    BINDINGS = bindings("dialog")

    def __init__(self, label: str, now: str, read: Callable[[str], Any]) -> None:
        super().__init__()
        self._label, self._now, self._read = label, now, read

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(line(f"{self._label} (empty: the default)"), markup=False)
            yield Input(self._now, compact=True)
            yield Static("", id="prompt-error", markup=False)

    @on(Input.Submitted)
    def _entered(self, event: Input.Submitted) -> None:
        try:
            self._read(event.value)
        except ValueError as error:
            self.query_one("#prompt-error", Static).update(line(f"✗ {error}"))
        else:
            self.dismiss(event.value)
