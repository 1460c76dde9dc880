"""Rows of a training file by length: a bar each step, then what the command line says of them."""

from textwrap import wrap

from textual.content import Content

from vramplan.planner.cli.render import plain
from vramplan.tui.choice import MeasuredRows
from vramplan.tui.layout import left_of, share_cells
from vramplan.tui.theme import SKY
from vramplan.tui.widgets.lines import Lines

BARS = 10
LEAST_WIDTH = 16


class LengthBars(Lines):
    """Empty until there is something measured."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._measured: MeasuredRows | None = None
        self._instead = ""

    def show(self, measured: MeasuredRows | None, instead: str = "") -> None:
        """Draw this file's rows; without one, a sentence in their place."""
        self._measured, self._instead = measured, instead
        self._draw()

    def on_resize(self) -> None:
        """The bars are as long as there is room."""
        self._draw()

    def _draw(self) -> None:
        width = max(LEAST_WIDTH, self.scrollable_content_region.width)
        if self._measured is None:
            self.show_lines([Content(each) for each in wrap(plain(self._instead), width)])
        else:
            said = [Content(part) for each in self._measured.lines for part in wrap(plain(each), width)]
            self.show_lines([*_bars(self._measured, width), Content(""), *said])


def _bars(measured: MeasuredRows, width: int) -> list[Content]:
    histogram = None if measured.lengths is None else measured.lengths.histogram
    if histogram is None:
        return []
    bars = histogram.bars(BARS)
    most = max(rows for _, rows in bars)
    labels = [(f"up to {length:,}", f"{rows:,}") for length, rows in bars]
    left, right = (max(len(label[side]) for label in labels) for side in (0, 1))
    room = max(1, width - left - right - 3)
    lines = []
    for (label, count), (_, rows) in zip(labels, bars, strict=True):
        filled = share_cells([rows, left_of(most, rows)], room)[0]
        lines.append(Content.assemble(f"{label:>{left}} ", ("█" * filled, SKY), f" {count}"))
    return lines
