"""A conversation: who said what, folded to the width; the end is in sight."""

from textwrap import wrap

from textual.content import Content

from vramplan.tui.theme import ORANGE, SKY
from vramplan.tui.widgets.lines import Lines

LEAST_WIDTH = 16
YOU = "you"


class Talk(Lines):
    """Turns one under the other."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._turns: list[tuple[str, str]] = []

    def show(self, turns: list[tuple[str, str]]) -> None:
        """Draw these turns: who, and the text."""
        self._turns = turns
        self._draw()

    def on_resize(self) -> None:
        """The text is folded to the width there is."""
        self._draw()

    def _draw(self) -> None:
        from vramplan.executor.chat_session import inert  # and with it the supervisor: not before somebody chats

        width = max(LEAST_WIDTH, self.scrollable_content_region.width - 2)
        lines: list[Content] = []
        for who, text in self._turns:
            lines.append(Content.styled(inert(who), f"bold {SKY if who == YOU else ORANGE}"))
            for part in inert(text).expandtabs().split("\n"):
                lines += [Content(f"  {each}") for each in wrap(part, width) or [""]]
        self.show_lines(lines)
        self.scroll_end(animate=False)
