"""Screen 1: what this card can tune, and the search for a model."""

import asyncio
from collections.abc import Iterable, Iterator

from textual import events, on, work
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input, Static

from vramplan.planner.adapters.models import ModelSummary
from vramplan.planner.largest import Largest
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.units import format_count
from vramplan.tui.bindings import bindings
from vramplan.tui.messages import ModelChosen
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import gib
from vramplan.tui.widgets.row_table import RowTable

SHOWN = 200
"""Search results listed; typing narrows them."""


class ModelScreen(StepScreen):
    """Choose a model: the largest this card can tune, one from the catalogue, a folder or a Hub id."""

    step = "model"
    scopes = ("model",)
    BINDINGS = bindings("model")

    def __init__(self) -> None:
        super().__init__()
        self._asked: object = None
        self._found: dict[str, Largest] = {}
        self._listed: list[str] = []
        self._in_sight = asyncio.Event()

    def body(self) -> Iterable[Widget]:
        with Vertical(id="tunable-box"):
            yield Static("What this card can tune", classes="title", markup=False)
            yield RowTable("method", "largest model", ">params", ">peak", ">up to GiB", takes=True, id="tunable")
            yield Static("", id="tunable-note", markup=False)
        yield Input(placeholder="a model's name, a folder, or a Hub id", id="query", compact=True)
        yield RowTable("model", ">params", takes=True, id="models")

    def on_mount(self) -> None:
        self.query_one("#tunable", RowTable).focus()
        self._search("")

    @on(events.ScreenResume)
    def _goes_on(self) -> None:
        self._in_sight.set()

    @on(events.ScreenSuspend)
    def _waits(self) -> None:
        self._in_sight.clear()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        device, knobs = state.choice.device, state.choice.knobs.model_copy(update={"method": None})
        asked = (device, state.device_note, knobs)
        if self._asked == asked:
            return
        self._asked = asked
        self._found = {}
        self._show_tunable()
        if device is None:
            self.workers.cancel_group(self, "largest")
            self.query_one("#tunable-note", Static).update(
                "d picks a card, or this machine's processor, to see what it can tune"
            )
        else:
            self._look_for_largest(self.vramplan.core.largest(device, knobs))

    @work(exclusive=True, exit_on_error=False, group="largest")
    async def _look_for_largest(self, steps: Iterator[Largest]) -> None:
        """Look as long as this screen is in sight: elsewhere a key's own price comes first."""
        while (await self._in_sight.wait()) and (step := await asyncio.to_thread(next, steps, None)) is not None:
            self._found[step.method] = step
            note = "" if step.done else f"looking for {step.method}: {step.tried} of {step.of} models"
            self.query_one("#tunable-note", Static).update(note)
            if step.done:
                self._show_tunable()
        self.query_one("#tunable-note", Static).update(_passed_over(self._found.values()))

    def _show_tunable(self) -> None:
        self.query_one("#tunable", RowTable).show([_tunable_row(name, self._found.get(name)) for name in METHOD_NAMES])

    @on(Input.Changed, "#query")
    def _query_changed(self, event: Input.Changed) -> None:
        self._search(event.value.strip())

    @work(exclusive=True, exit_on_error=False, group="search")
    async def _search(self, query: str) -> None:
        self._show_models(await asyncio.to_thread(self.vramplan.core.search_models, query, SHOWN), query)

    def _show_models(self, models: tuple[ModelSummary, ...], query: str) -> None:
        rows = [(model.id, format_count(model.params)) for model in models]
        self._listed = [model.id for model in models]
        if query and query not in self._listed:
            rows.append((f"open {query} as a folder or a Hub id", ""))
            self._listed.append(query)
        self.query_one("#models", RowTable).show(rows)

    @on(Input.Submitted, "#query")
    def _query_entered(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self._take_typed(event.value.strip())

    @work(exclusive=True, exit_on_error=False, group="resolve")
    async def _take_typed(self, query: str) -> None:
        """The best match of what is in the box, which the list below may not show yet; else the text itself."""
        found = await asyncio.to_thread(self.vramplan.core.search_models, query, 1)
        self._resolve(found[0].id if found else query, None)

    @on(RowTable.RowSelected, "#models")
    def _model_selected(self, event: RowTable.RowSelected) -> None:
        if event.cursor_row < len(self._listed):
            self._resolve(self._listed[event.cursor_row], None)

    @on(RowTable.RowSelected, "#tunable")
    def _largest_selected(self, event: RowTable.RowSelected) -> None:
        method = METHOD_NAMES[event.cursor_row]
        found = self._found.get(method)
        if found is not None and found.model is not None:
            self._resolve(found.model, method)
        else:
            self.notice.say("no model to take in this row; search for one with /")

    @work(exclusive=True, exit_on_error=False, group="read")
    async def _resolve(self, text: str, method: str | None) -> None:
        self.notice.say(f"reading {text} ...")
        model = await asyncio.to_thread(self.vramplan.core.resolve_model, text)
        self.notice.say("")
        self.post_message(ModelChosen(model, method))

    def action_filter(self) -> None:
        """Go to the search box."""
        self.set_focus(self.query_one("#query"))  # at once: what is typed next belongs to the box

    def key_down(self) -> None:
        """From the search box the arrow leads into the list."""
        if self.focused is self.query_one("#query"):
            self.query_one("#models").focus()


def _passed_over(found: Iterable[Largest]) -> str:
    counts = ", ".join(f"{each.method} {each.unpriced}" for each in found if each.unpriced)
    return f"larger, but without a price here yet: {counts}" if counts else ""


def _tunable_row(method: str, found: Largest | None) -> tuple[str, ...]:
    if found is None:
        return (method, "–", "", "", "")
    if found.candidate is None or found.model is None:
        nothing = "no model has a price here" if found.unpriced == found.of else "none that has a price here fits"
        return (method, nothing if found.done else "...", "", "", "")
    budget = found.candidate.budget
    params = format_count(found.candidate.total_params)
    return (method, found.model, params, gib(budget.process_bytes), gib(budget.high_process_bytes))
