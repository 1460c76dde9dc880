"""Memory along one step: a column a layer, forward then backward, what lasts below what comes and goes."""

from itertools import groupby

from textual.content import Content
from textual.widget import Widget

from vramplan.planner.memory.timeline import Moment
from vramplan.planner.units import format_bytes, format_gib
from vramplan.tui.layout import eighths_at, left_of
from vramplan.tui.theme import COMPONENTS, GREY

EIGHTHS = " ▁▂▃▄▅▆▇█"
LABEL_WIDTH = 9
LASTING, PASSING = COMPONENTS["weights"][1], COMPONENTS["activations"][1]


class CourseChart(Widget):
    """Columns to the scale of the highest; the lines below name the phases and the highest point."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._course: tuple[Moment, ...] = ()
        self._available: int | None = None

    def show(self, course: tuple[Moment, ...], available_bytes: int | None) -> None:
        """Draw this course; an empty one says that there is none."""
        self._course, self._available = course, available_bytes
        self.refresh()

    def render(self) -> Content:
        width, height = self.size.width - LABEL_WIDTH, self.size.height - 3
        if not self._course or width < 8 or height < 2:
            return Content.styled("the course of a step is shown once its memory program is here", "dim")
        return _chart(self._course, width, height)


def columns_of(course: tuple[Moment, ...], width: int) -> list[Moment]:
    """One moment a column: the highest of those that fall together, or one of them drawn wider.

    >>> course = [Moment(phase="forward", layer=n, allocated_bytes=n, lasting_bytes=0) for n in range(6)]
    >>> [moment.layer for moment in columns_of(tuple(course), 3)]
    [1, 3, 5]
    """
    number = len(course)
    bins = ((at * number // width, max((at + 1) * number // width, at * number // width + 1)) for at in range(width))
    return [max(course[first:last], key=lambda moment: moment.allocated_bytes) for first, last in bins]


def _chart(course: tuple[Moment, ...], width: int, height: int) -> Content:
    """The bottom row is all that lasts; the rows above it show what comes and goes, on a scale of its own."""
    columns = columns_of(course, width)
    highest = max(course, key=lambda moment: moment.allocated_bytes)
    floor = highest.lasting_bytes
    scale = max(1, left_of(highest.allocated_bytes, floor))
    rows = []
    for row in reversed(range(height)):
        label = format_gib(highest.allocated_bytes) if row == height - 1 else format_gib(floor) if row == 0 else ""
        cells = [_cell(left_of(moment.allocated_bytes, floor), row - 1, height - 1, scale) for moment in columns]
        parts = [Content.styled("".join(glyph for glyph, _ in run), style) for style, run in _runs(cells)]
        rows.append(Content("").join([Content.styled(f"{label:>{LABEL_WIDTH - 1}} ", "dim"), *parts]))
    return Content("\n").join([*rows, _axis(columns), _words(highest)])


def _cell(passing_bytes: int, row: int, height: int, scale: int) -> tuple[str, str]:
    """A glyph and its colour: solid for what lasts, eighths of a block at the top of what comes and goes."""
    if row < 0:
        return "█", LASTING
    eighths = eighths_at(passing_bytes, scale, row, height)
    if eighths >= 8:
        return "▒", PASSING
    return EIGHTHS[max(0, eighths)], PASSING


def _runs(cells: list[tuple[str, str]]) -> list[tuple[str, list[tuple[str, str]]]]:
    return [(style, list(run)) for style, run in groupby(cells, key=lambda cell: cell[1])]


def _axis(columns: list[Moment]) -> Content:
    """The phases' names under their columns, as far as there is room."""
    text = ""
    for phase, run in groupby(columns, key=lambda moment: moment.phase):
        room = len(list(run))
        text += f"└{phase.replace('_', ' ')}"[:room].ljust(room)
    return Content.styled(" " * LABEL_WIDTH + text, GREY)


def _words(highest: Moment) -> Content:
    where = highest.phase.replace("_", " ") + ("" if highest.layer is None else f", layer {highest.layer}")
    top, lasting = format_bytes(highest.allocated_bytes), format_bytes(highest.lasting_bytes)
    return Content(f"    GiB  highest {top} in {where} ") + Content.styled(f" █ of it lasting {lasting}", "dim")
