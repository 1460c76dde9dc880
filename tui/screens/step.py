"""What the screens share: the step bar, the model and device lines, the notice line and the keys."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar, cast

from textual import events, on
from textual.app import ComposeResult
from textual.screen import Screen
from textual.widget import Widget
from textual.widgets import Footer, Static
from textual.worker import Worker, WorkerState

from vramplan.tui.bindings import ACTIONS, STEPS, Scope
from vramplan.tui.hints import HINTS
from vramplan.tui.state import State, why_not
from vramplan.tui.text import describe_device, describe_error, describe_model, line
from vramplan.tui.widgets.notice import Notice
from vramplan.tui.widgets.step_bar import StepBar

if TYPE_CHECKING:
    from vramplan.tui.app import VramplanApp


STEP_IDS = frozenset(f"app.{name}" for name, _ in STEPS)
"""Actions that the line at the top shows; the footer shows its own."""


class StepScreen(Screen[None]):
    """A numbered screen. It shows the app's state and never owns it."""

    step: ClassVar[str]
    scopes: ClassVar[tuple[Scope, ...]] = ()
    """Where in the table of actions its own keys are."""

    def __init__(self) -> None:
        super().__init__()
        self._head: object = None
        self._possible: frozenset[str] | None = None
        self._came_up = False

    @property
    def vramplan(self) -> "VramplanApp":
        """The app, under its own type."""
        return cast("VramplanApp", self.app)

    def compose(self) -> ComposeResult:
        yield StepBar(self.step)
        yield Static(id="model-line", markup=False)
        yield Static(id="device-line", markup=False)
        yield from self.body()
        yield Notice()
        yield Footer(show_command_palette=False)

    def body(self) -> Iterable[Widget]:
        """The screen's own widgets."""
        raise NotImplementedError

    def show_state(self, state: State) -> None:
        """Draw what the app knows; called when the screen comes up and whenever the state changes."""
        self.notice.narrate(state.narration)
        head = self.head(state)
        if head != self._head:
            self._head = head
            for id, text in zip(("#model-line", "#device-line"), head, strict=True):
                self.query_one(id, Static).update(line(text), layout=False)
        mine = [action for action in ACTIONS if action.scope in (*self.scopes, "app")]
        shown = [action for action in mine if action.footer or action.id in STEP_IDS]
        possible = frozenset(action.id for action in shown if self.vramplan.why_not(action.action) is None)
        if possible != self._possible:  # the footer is made anew, which takes longer than all the rest
            self._possible = possible
            self.query_one(StepBar).show(frozenset(name for name, _ in STEPS if f"app.{name}" not in possible))
            self.refresh_bindings()

    def head(self, state: State) -> tuple[str, str]:
        """What is planned, and for what."""
        device = state.choice.target
        described = state.device_note if device is None and state.device_note else describe_device(device)
        return describe_model(state.choice.model), described

    def command(self) -> str | None:
        """The command line that does what this screen is about; None: what the app is set to do."""
        return None

    @property
    def is_whole(self) -> bool:
        """Its widgets are there: it is neither being put together nor taken down."""
        return self._came_up and bool(self.query(Notice))

    @property
    def notice(self) -> Notice:
        """The line above the keys."""
        return self.query_one(Notice)

    @on(events.ScreenResume)
    def _come_up(self) -> None:
        self._came_up = True
        self.show_state(self.vramplan.state)
        kept = self.vramplan.remembered
        if self.step not in kept.hinted:
            self.notice.say(HINTS[self.step])
            self.vramplan.keep(kept.model_copy(update={"hinted": (*kept.hinted, self.step)}))

    @on(Worker.StateChanged)
    def _say_what_failed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR and event.worker.error is not None:
            self.notice.fail(describe_error(event.worker.error))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Grey out what is not possible now."""
        return None if why_not(self.vramplan.state, action, parameters) else True

    def on_key(self, event: events.Key) -> None:
        """A key whose action is not possible now says why."""
        for active in self.active_bindings.values():
            if active.binding.key == event.key and not active.enabled:
                reason = self.vramplan.why_not(active.binding.action)
                if reason:
                    self.notice.say(reason)
                    return
