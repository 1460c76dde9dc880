"""The tensors alive at the highest point of a step, static ones apart, largest first."""

from textwrap import wrap

from textual.content import Content

from vramplan.planner.cli.render import plain
from vramplan.planner.memory.budget import LiveTensor
from vramplan.planner.units import format_bytes
from vramplan.tui.theme import COMPONENTS
from vramplan.tui.widgets.lines import Lines

LEAST_LABEL_WIDTH = 16


class TensorTable(Lines):
    """A line a tensor; scrolls when there are more lines than room."""

    def __init__(self, id: str | None = None) -> None:
        super().__init__(id=id)
        self._tensors: tuple[LiveTensor, ...] = ()

    def show(self, tensors: tuple[LiveTensor, ...]) -> None:
        """Draw these tensors."""
        self._tensors = tensors
        self._draw()

    def on_resize(self) -> None:
        """The labels are folded to the width there is."""
        self._draw()

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        self.show_lines(_lines(self._tensors, width) or [Content("nothing lives inside the step")])


def _lines(tensors: tuple[LiveTensor, ...], width: int) -> list[Content]:
    rows = [(format_bytes(each.total_bytes), f"{each.count} ×", plain(each.shape)) for each in tensors]
    size, count, shape = (max((len(row[column]) for row in rows), default=0) for column in range(3))
    lines: list[Content] = []
    for tensor, (total, number, shaped) in zip(tensors, rows, strict=True):
        left = f" {total:>{size}} "
        middle = f"{number:>{count}} "
        room = width - len(left) - len(middle) - shape - 3
        first, *more = wrap(plain(tensor.label), max(LEAST_LABEL_WIDTH, room)) or [""]
        lines.append(
            Content.assemble(COMPONENTS[tensor.component], left, (middle, "dim"), f"{shaped:<{shape}} ", (first, "dim"))
        )
        indent = " " * (len(left) + len(middle) + shape + 2)
        lines += [Content.styled(indent + each, "dim") for each in more]
    return lines
