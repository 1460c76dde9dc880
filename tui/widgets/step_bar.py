"""The line at the top: the screens by number, the one you are on, and which cannot be opened yet."""

from textual.content import Content
from textual.widgets import Static

from vramplan.tui.bindings import STEPS


class StepBar(Static):
    """``vramplan   1 Model  2 Setup ...``; a screen that cannot be opened yet is dim, and clicking goes there."""

    def __init__(self, current: str) -> None:
        super().__init__(id="steps")
        self._current = current

    def show(self, closed: frozenset[str]) -> None:
        """Draw the line, dimming the screens that cannot be opened now."""
        parts = [Content.styled(" vramplan ", "bold")]
        for number, (name, title) in enumerate(STEPS, start=1):
            style = "bold reverse" if name == self._current else "dim" if name in closed else ""
            label = Content.styled(f" {number} {title} ", style) if style else Content(f" {number} {title} ")
            parts.append(label.stylize(f"@click=app.go('{name}')"))
        self.update(Content(" ").join(parts))
