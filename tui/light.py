"""The colours of numbers on a light ground: the same hues, dark enough to be read."""

from collections.abc import Mapping
from functools import lru_cache

from rich.color import Color as RichColor
from rich.segment import Segment
from rich.style import Style
from textual.color import Color
from textual.filter import LineFilter

from vramplan.tui.theme import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILLION, YELLOW

ON_LIGHT: Mapping[str, str] = {
    SKY: "#1B608F",
    ORANGE: "#7A5200",
    PINK: "#8C3A6B",
    GREEN: "#00593F",
    YELLOW: "#5C5400",
    VERMILLION: "#8F3B00",
    BLUE: "#004C78",
    GREY: "#525252",
}


class Darker(LineFilter):
    """Puts the darker shade in the place of each colour of ``theme``; whatever else is drawn stays."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [Segment(text, None if style is None else _darker(style), control) for text, style, control in segments]


@lru_cache(1024)
def _darker(style: Style) -> Style:
    if style.color is None or style.color.triplet is None:
        return style
    shade = ON_LIGHT.get(style.color.triplet.hex.upper())
    return style if shade is None else style + Style.from_color(RichColor.parse(shade))
