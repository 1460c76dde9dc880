"""Lines of text that scroll, painted only where they are in sight.

A widget whose text may change height makes Textual lay out the whole screen, which takes longer than everything else a
key changes. Here the height is the widget's own: new lines are a repaint.
"""

from collections.abc import Sequence

from textual.content import Content
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual


class Lines(ScrollView, can_focus=True):
    """Shows one content a line; what is wider than the widget is cut off."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._lines: Sequence[Content] = ()

    def show_lines(self, lines: Sequence[Content], *, for_now: bool = False) -> None:
        """Draw these lines; those shown for a moment only leave the room of the lines before them as it is."""
        self._lines = lines
        least = self.virtual_size.height if for_now else self.size.height
        self.virtual_size = Size(0, max(len(lines), least))  # one that stays the same is not laid out
        self.refresh()

    def render_line(self, y: int) -> Strip:
        at = self.scroll_offset.y + y
        line = self._lines[at] if at < len(self._lines) else Content("")
        width = self.scrollable_content_region.width
        strips = Visual.to_strips(self, line, width, 1, self.visual_style, pad=True)
        return strips[0] if strips else Strip.blank(width, self.rich_style)
