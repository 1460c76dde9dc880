"""Screen 1: what this card can tune, the models looked at last, the search here and on the Hub, and a model's card."""

import asyncio
import shlex
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from textual import events, on, work
from textual.containers import Container, Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Input, Static

from vramplan.planner.cli.render import plain
from vramplan.planner.errors import VramplanError
from vramplan.planner.largest import Largest
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.units import format_count
from vramplan.tui.bindings import bindings
from vramplan.tui.choice import Knobs
from vramplan.tui.messages import ModelChosen
from vramplan.tui.remembered import Recent
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import describe_error, gib
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.lines import Lines
from vramplan.tui.widgets.row_table import RowTable

if TYPE_CHECKING:  # this screen is the first: it imports what it takes to paint it
    from vramplan.planner.adapters.hub_search import HubModel
    from vramplan.planner.adapters.models import ModelSummary

SHOWN = 200
"""Search results listed; typing narrows them."""


REST_SECONDS = 0.1
"""A row the cursor passes in less has no card drawn."""
LEAST_CARD_WIDTH = 60


class _Listed(NamedTuple):
    """A row, and what taking it means."""

    model: str
    row: tuple[str, ...]
    knobs: Knobs | None = None
    hub: "HubModel | None" = None
    typed: bool = False
    """It is what stands in the box: nobody asks for it before it is taken."""


class ModelScreen(StepScreen):
    """Choose a model: the largest this card can tune, one from the catalogue, a folder or a Hub id."""

    step = "model"
    scopes = ("model",)
    BINDINGS = bindings("model")

    def __init__(self) -> None:
        super().__init__()
        self._asked: object = None
        self._found: dict[str, Largest] = {}
        self._listed: list[_Listed] = []
        self._recent: tuple[Recent, ...] = ()
        self._models: tuple[ModelSummary, ...] = ()
        self._hub: tuple[HubModel, ...] = ()
        self._in_sight = asyncio.Event()

    def body(self) -> Iterable[Widget]:
        with Vertical(id="tunable-box"):
            yield Static("What this card can tune", classes="title", markup=False)
            yield RowTable("method", "largest model", ">params", ">peak", ">up to GiB", takes=True, id="tunable")
            yield Static("", id="tunable-note", markup=False)
        yield Input(placeholder="a model's name, a folder, or a Hub id", id="query", compact=True)
        with Container(classes="columns"):
            yield RowTable("model", ">params", ">context", ">downloads", "licence", takes=True, id="models")
            yield Lines(id="card")

    def command(self) -> str | None:
        """The card of the model under the cursor, or the price of what a method can tune at most."""
        from vramplan.tui.command_line import device_words

        table, at = self.query_one("#tunable", RowTable), self.query_one("#models", RowTable).cursor_row
        if self.focused is table:
            method = METHOD_NAMES[table.cursor_row]
            found = self._found.get(method)
            words = [] if found is None or found.model is None else [found.model]
            device = device_words(self.vramplan.state.choice.device)
            return shlex.join(["vramplan", "estimate", *words, *device, "--method", method]) if words else None
        return shlex.join(["vramplan", "models", self._listed[at].model]) if at < len(self._listed) else None

    def on_mount(self) -> None:
        self.query_one("#tunable", RowTable).focus()
        self.call_after_refresh(self._search, "")  # the frame first

    @on(events.ScreenResume)
    def _goes_on(self) -> None:
        self._in_sight.set()

    @on(events.ScreenSuspend)
    def _waits(self) -> None:
        self._in_sight.clear()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        if self.vramplan.remembered.recent != self._recent:
            self._recent = self.vramplan.remembered.recent
            self._show_models(self.query_one("#query", Input).value.strip())
        device, knobs = state.choice.target, state.choice.knobs.model_copy(update={"method": None})
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
        while (await self._in_sight.wait()) and (step := await in_thread(next, steps, None)) is not None:
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
        self._models, self._hub = await in_thread(self.vramplan.core.search_models, query, SHOWN), ()
        self._show_models(query)

    def _show_models(self, query: str) -> None:
        """The models looked at last where nothing is typed, the catalogue's, the Hub's, and the text itself."""
        recent = () if query else self.vramplan.remembered.recent
        self._listed = [
            *(_Listed(each.model, (f"recent: {each.model}", "", "", "", ""), knobs=each.knobs) for each in recent),
            *(_Listed(each.id, _row(each)) for each in self._models),
            *(_Listed(each.id, _hub_row(each), hub=each) for each in self._hub),
        ]
        if query and query not in [each.model for each in self._listed]:
            self._listed.append(_Listed(query, (f"open {query} as a folder or a Hub id", "", "", "", ""), typed=True))
        self.query_one("#models", RowTable).show([each.row for each in self._listed])

    def action_search_hub(self) -> None:
        """Look on the Hub for what is in the box."""
        query = self.query_one("#query", Input).value.strip()
        if query:
            self._search_hub(query)
        else:
            self.notice.say("type part of a name first (/)")

    @work(exclusive=True, exit_on_error=False, group="hub")
    async def _search_hub(self, query: str) -> None:
        self.notice.say(f"asking the Hub for {query} ...")
        self._hub = await in_thread(self.vramplan.core.search_hub, query)
        self.notice.say(f"{len(self._hub)} on the Hub" if self._hub else f"the Hub has no model called {query}")
        self._show_models(query)

    def action_recent(self) -> None:
        """To the models that were looked at last."""
        self.query_one("#query", Input).value = ""
        self.query_one("#models", RowTable).move_cursor(row=0)
        self.set_focus(self.query_one("#models"))

    def action_toggle_card(self) -> None:
        """Show the card, or hide it."""
        card = self.query_one("#card", Lines)
        card.display = not card.display
        self._show_card()

    @on(RowTable.RowHighlighted)
    def _highlighted(self) -> None:
        self._show_card()

    @work(exclusive=True, exit_on_error=False, group="card")
    async def _show_card(self) -> None:
        """The card of the model under the cursor, once the cursor rests."""
        from vramplan.planner.cli.models import card

        panel, at = self.query_one("#card", Lines), self.query_one("#models", RowTable).cursor_row
        if not panel.display or not 0 <= at < len(self._listed):
            return
        await asyncio.sleep(REST_SECONDS)
        chosen = self._listed[at]
        if chosen.hub is not None:
            panel.show_lines([Content(plain(each)) for each in _hub_card(chosen.hub)])
            return
        if chosen.typed:
            panel.show_lines([Content("enter reads it: a folder, or the Hub's config.json and safetensors headers")])
            return
        try:
            model = await in_thread(self.vramplan.core.resolve_model, chosen.model)
        except VramplanError as error:
            panel.show_lines([Content(plain(describe_error(error)))])
            return
        width = max(LEAST_CARD_WIDTH, panel.scrollable_content_region.width)
        panel.show_lines([Content(plain(each)) for each in card(model, width=width).split("\n")])

    @on(Input.Submitted, "#query")
    def _query_entered(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self._take_typed(event.value.strip())

    @work(exclusive=True, exit_on_error=False, group="resolve")
    async def _take_typed(self, query: str) -> None:
        """The best match of what is in the box, which the list below may not show yet; else the text itself."""
        found = await in_thread(self.vramplan.core.search_models, query, 1)
        self._resolve(found[0].id if found else query, None)

    @on(RowTable.RowSelected, "#models")
    def _model_selected(self, event: RowTable.RowSelected) -> None:
        if event.cursor_row < len(self._listed):
            chosen = self._listed[event.cursor_row]
            self._resolve(chosen.model, None, chosen.knobs)

    @on(RowTable.RowSelected, "#tunable")
    def _largest_selected(self, event: RowTable.RowSelected) -> None:
        method = METHOD_NAMES[event.cursor_row]
        found = self._found.get(method)
        if found is not None and found.model is not None:
            self._resolve(found.model, method)
        else:
            self.notice.say("no model to take in this row; search for one with /")

    @work(exclusive=True, exit_on_error=False, group="read")
    async def _resolve(self, text: str, method: str | None, knobs: Knobs | None = None) -> None:
        self.notice.say(f"reading {text} ...")
        model = await in_thread(self.vramplan.core.resolve_model, text)
        self.notice.say("")
        self.post_message(ModelChosen(model, method, knobs))

    def action_filter(self) -> None:
        """Go to the search box."""
        self.set_focus(self.query_one("#query"))  # at once: what is typed next belongs to the box

    def key_down(self, event: events.Key) -> None:
        """From the search box the arrow leads into the list."""
        if self.focused is self.query_one("#query"):
            self.query_one("#models").focus()
            event.stop()  # the list itself shall not move on it


def _row(model: "ModelSummary") -> tuple[str, ...]:
    context = "" if model.context_length is None else f"{model.context_length:,}"
    return (model.id, format_count(model.params), context, "", _licence(model.license, model.gated))


def _hub_row(model: "HubModel") -> tuple[str, ...]:
    params = "?" if model.params is None else format_count(model.params)
    downloads = "" if model.downloads is None else f"{model.downloads:,}"
    return (model.id, params, "", downloads, _licence(model.license, model.gated))


def _licence(name: str | None, gated: bool | None) -> str:
    return f"{name or 'unknown'}{', gated' if gated else ''}"


def _hub_card(model: "HubModel") -> Iterator[str]:
    yield model.id
    yield "  on the Hub: only what its list says is known; enter reads config.json and the safetensors headers"
    _, params, _, downloads, licence = _hub_row(model)
    yield f"  {params} parameters · {licence} · {downloads or '?'} downloads in 30 days"


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
