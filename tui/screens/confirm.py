"""A yes-or-no question before something that cannot be taken back."""

from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Static

from vramplan.tui.bindings import bindings
from vramplan.tui.text import line


class Confirm(ModalScreen[bool]):
    """Dismisses with the answer; esc is no."""

    BINDINGS = bindings("question")

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(line(self._question), markup=False)
            with Horizontal():
                yield Button("yes (y)", id="yes", compact=True)
                yield Button("no (n)", id="no", compact=True)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """The mouse answers too."""
        self.dismiss(event.button.id == "yes")
