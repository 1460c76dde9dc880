"""The options of a setup as a list of dials: up and down choose, left and right turn, enter types."""

from typing import TYPE_CHECKING, Any, cast

from textual import events
from textual.content import Content
from textual.reactive import reactive
from textual.widget import Widget

from vramplan.planner.cli.render import plain
from vramplan.tui.bindings import bindings
from vramplan.tui.choice import Knobs, Priced
from vramplan.tui.knobs import Knob, Place, in_force, knobs_at, read_typed, shown, turned
from vramplan.tui.messages import KnobsChanged
from vramplan.tui.more_knobs import all_knobs
from vramplan.tui.screens.files import FilePicker
from vramplan.tui.screens.prompt import Prompt

if TYPE_CHECKING:
    from vramplan.tui.app import VramplanApp

LABEL_WIDTH, VALUE_WIDTH = 17, 20


class KnobList(Widget, can_focus=True):
    """One line a knob; what a person set is marked, the rest is the default's."""

    BINDINGS = bindings("knobs")
    cursor: reactive[int] = reactive(0)

    def __init__(self, place: Place = "budget") -> None:
        super().__init__(id="knobs")
        self._place: Place = place
        self._table = knobs_at(place)
        self._knobs, self._priced = Knobs(), None

    _priced: Priced | None

    def show(self, knobs: Knobs, priced: Priced | None) -> None:
        """Draw these options; defaults are read from the priced choice."""
        before = self._rows()
        self._knobs, self._priced = knobs, priced or self._priced
        if self._rows() != before:
            self.refresh()

    @property
    def _first(self) -> int:
        """The first row in sight: the one under the cursor is."""
        room = max(1, self.size.height)
        return max(0, min(self.cursor - room // 2, len(self._table) - room))

    def _rows(self) -> list[tuple[Any, bool]]:
        """Of each option the value that counts, and whether a person set it."""
        return [
            (in_force(knob, self._knobs, self._priced), self._knobs.value(knob.name) is not None)
            for knob in self._table
        ]

    def render(self) -> Content:
        rows = self._rows()
        sight = range(self._first, min(len(self._table), self._first + max(1, self.size.height)))
        return Content("\n").join(self._row(index, self._table[index], *rows[index]) for index in sight)

    def _row(self, index: int, knob: Knob, value: Any, given: bool) -> Content:
        here = index == self.cursor and self.has_focus
        left, right = ("‹", "›") if knob.values else (" ", " ")
        value_text = f"{left} {_cut(plain(shown(value))):<{VALUE_WIDTH}}{right}"
        label = knob.label if len(knob.label) < LABEL_WIDTH else f"{knob.label[: LABEL_WIDTH - 2]}…"
        text = f"{'›' if here else ' '} {label:<{LABEL_WIDTH}}{value_text}  {'set' if given else 'default'}"
        return Content.styled(text, "bold reverse" if here else "" if given else "dim")

    def action_cursor_down(self) -> None:
        self.cursor = min(self.cursor + 1, len(self._table) - 1)

    def action_cursor_up(self) -> None:
        self.cursor = max(self.cursor - 1, 0)

    def action_turn(self, direction: int) -> None:
        """Take the next value in a direction."""
        knob = self._table[self.cursor]
        self._set(knob, turned(knob, in_force(knob, self._knobs, self._priced), direction))

    def action_all(self) -> None:
        """Every option of the command line, or those of this screen alone."""
        here = self._table[self.cursor]
        first = knobs_at(self._place)
        self._table = all_knobs(self._place) if self._table == first else first
        self.set_class(self._table != first, "-all")
        self.cursor = self._table.index(here) if here in self._table else 0
        self.refresh()

    def action_reset(self) -> None:
        """Back to the default."""
        self._set(self._table[self.cursor], None)

    def action_edit(self) -> None:
        """Type an exact value, where the option has more than the listed ones."""
        knob = self._table[self.cursor]
        if knob.name == "data":
            self.pick_data()
            return
        if knob.typed is None:
            self.action_turn(1)
            return
        now = in_force(knob, self._knobs, self._priced)

        def typed(answer: str | None) -> None:
            if answer is not None:
                self._set(knob, read_typed(knob, answer))

        prompt = Prompt(knob.label, "" if now is None else str(now), lambda text: read_typed(knob, text))
        self.app.push_screen(prompt, typed)

    def pick_data(self) -> None:
        """Choose the training file."""

        def picked(answer: str | None) -> None:
            if answer is not None:
                self._set(next(knob for knob in self._table if knob.name == "data"), answer or None)

        self.app.push_screen(FilePicker(cast("VramplanApp", self.app).core, self._knobs.data or ""), picked)

    def on_click(self, event: events.Click) -> None:
        """A click chooses a row; a second one turns it."""
        row = self._first + event.y
        if row < len(self._table):
            if self.cursor == row:
                self.action_turn(1)
            self.cursor = row

    def _set(self, knob: Knob, value: Any) -> None:
        switched = knob.name == "method" and value is not None
        self._knobs = self._knobs.for_method(value) if switched else self._knobs.setting(knob.name, value)
        self.refresh()
        self.post_message(KnobsChanged(self._knobs))


def _cut(text: str) -> str:
    """The end of a text too long for its column: of a path that is the part that tells."""
    return text if len(text) <= VALUE_WIDTH else f"…{text[1 - VALUE_WIDTH :]}"
