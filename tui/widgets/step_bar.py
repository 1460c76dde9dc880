"""The line at the top: the screens by number, the one you are on, and which cannot be opened yet."""

from textual.content import Content
from textual.widget import Widget

from vramplan.tui.bindings import STEPS


class StepBar(Widget):
    """``vramplan  1 Model  2 Hardware ...``; a screen that cannot be opened yet is dim, and clicking goes there."""

    def __init__(self, current: str) -> None:
        super().__init__(id="steps")
        self._current = current
        self._shut: frozenset[str] = frozenset()

    def show(self, closed: frozenset[str]) -> None:
        """Draw the line, dimming the screens that cannot be opened now."""
        self._shut = closed
        self.refresh()

    def render(self) -> Content:
        labels = [
            Content.styled(f"{number} {title}", self._style(name)).stylize(f"@click=app.go('{name}')")
            for number, (name, title) in enumerate(STEPS, start=1)
        ]
        roomy = Content("  ").join([Content.styled("vramplan", "bold"), *labels])
        return roomy if roomy.cell_length <= self.size.width else Content(" ").join(labels)

    def _style(self, name: str) -> str:
        return "bold reverse" if name == self._current else "dim" if name in self._shut else ""
