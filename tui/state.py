"""Everything the app knows, as one frozen value, and why an action is not possible in it."""

from math import isfinite
from typing import Literal

from vramplan.executor.events import Event, Failed, Finished, Paused, Resumed, Step, Verified
from vramplan.planner.cli.glance import Glance
from vramplan.planner.values import Value
from vramplan.tui.bindings import key_of
from vramplan.tui.choice import Choice, Knobs, Priced, SavedPlan

LOSSES_KEPT = 600
"""Points of the loss curve kept for drawing; the report has the facts."""

EVENTS_KEPT = 500
"""Events kept for the log; events.jsonl in the run folder has them all."""
UNDOS_KEPT = 100
RUNNING = ("run_saved", "start_run", "resume", "merge", "chat", "demo")
"""Actions that start a process with a model in it."""
MODEL_FIRST = f"choose a model first ({key_of('model')})"
SAVE_FIRST = f"save the plan first ({key_of('plan')}, then s)"

RunStatus = Literal["running", "pausing", "paused", "stopping", "done", "failed", "interrupted"]


class RunState(Value):
    """A run as its events tell it."""

    saved: SavedPlan
    status: RunStatus = "running"
    step: Step | None = None
    losses: tuple[float, ...] = ()
    log: tuple[Event, ...] = ()
    """The last of what was said, steps apart."""
    num_logged: int = 0
    """How much was said in all, steps apart."""
    report: str | None = None
    failure: str | None = None
    interrupted: bool = False
    """The child says that somebody stopped it."""

    @property
    def under_way(self) -> bool:
        """A child process is (or may be) alive."""
        return self.status in ("running", "pausing", "paused", "stopping")

    def after(self, event: Event) -> "RunState":
        """The run once this event has been heard."""
        match event:
            case Step():
                drawable = event.loss is not None and isfinite(event.loss)
                losses = (*self.losses, event.loss)[-LOSSES_KEPT:] if drawable else self.losses
                return self.model_copy(update={"step": event, "losses": losses})
            case Verified():  # the run begins anew: the steps before it are no part of its curve
                return self._logged(event, step=None, losses=())
            case Paused() | Resumed():
                status = "paused" if isinstance(event, Paused) else "running"
                return self._logged(event, status=self.status if self.status == "stopping" else status)
            case Failed():
                remedy = f" — {event.remedy}" if event.remedy else ""
                return self._logged(event, failure=event.message + remedy, interrupted=event.interrupted)
            case Finished():
                return self._logged(event, report=event.report)
            case _:
                return self._logged(event)

    def ended(self) -> "RunState":
        """The run once the child is gone: without a last word from it, it failed."""
        if self.report is not None:
            return self.model_copy(update={"status": "done"})
        if self.interrupted or (self.status == "stopping" and self.failure is None):
            return self.model_copy(update={"status": "interrupted"})
        failure = self.failure or "the training process ended without a report"
        return self.model_copy(update={"status": "failed", "failure": failure})

    def _logged(self, event: Event, **changed: object) -> "RunState":
        log = (*self.log, event)[-EVENTS_KEPT:]
        return self.model_copy(update={"log": log, "num_logged": self.num_logged + 1, **changed})


class State(Value):
    """What has been chosen, priced, saved and run."""

    choice: Choice = Choice()
    may_run: bool = True
    """Runs may be started here, and what comes of them loaded."""
    narration: str = ""
    """What the core says it is doing just now (tracing, say)."""
    device_note: str = ""
    """How the device came to be chosen, in words."""
    glance: Glance | None = None
    """What the choice allocates; there long before its price."""
    slow: bool = False
    """Nothing can be said at once: its memory program is not here, and its price takes a while."""
    priced: Priced | None = None
    price_error: str = ""
    """Why the choice has no price; empty while it is being priced."""
    saved: SavedPlan | None = None
    run: RunState | None = None
    ask_to_run: bool = False
    """The saved plan is to be checked, and then asked about."""
    chat: tuple[str, ...] = ()
    """The run folders whose adapters answer."""
    undo: tuple[Knobs, ...] = ()
    """The knobs before each change, the last change last."""
    redo: tuple[Knobs, ...] = ()

    def turning(self, knobs: Knobs) -> "State":
        """The state with other knobs, and a way back to these."""
        undo = (*self.undo, self.choice.knobs)[-UNDOS_KEPT:]
        return self.choosing(knobs=knobs).model_copy(update={"undo": undo, "redo": ()})

    def undone(self) -> "State":
        """The state with the knobs of before the last change."""
        *undo, knobs = self.undo
        redo = (*self.redo, self.choice.knobs)
        return self.choosing(knobs=knobs).model_copy(update={"undo": tuple(undo), "redo": redo})

    def redone(self) -> "State":
        """The state with the knobs that were undone last."""
        *redo, knobs = self.redo
        undo = (*self.undo, self.choice.knobs)
        return self.choosing(knobs=knobs).model_copy(update={"undo": undo, "redo": tuple(redo)})

    def choosing(self, **changed: object) -> "State":
        """The state with a model, device or knobs chosen anew: its price and its saved plan no longer hold."""
        choice = self.choice.model_copy(update=changed)
        forgotten = {"glance": None, "slow": False, "priced": None, "price_error": "", "saved": None}
        return self.model_copy(update={"choice": choice, **forgotten})


def why_not(state: State, action: str, parameters: tuple[object, ...] = ()) -> str | None:
    """Why an action is not possible now, with what to do about it; None when it is."""
    if action in RUNNING and not state.may_run:
        return "running is off in a browser: vramplan --web --allow-run"
    return _why_not_run(state, action) or _why_not_yet(state, action, parameters)


def _why_not_run(state: State, action: str) -> str | None:
    """What is in the way of an action that a run stands or falls with."""
    running = state.run is not None and state.run.under_way
    if action in ("start_run", "run_saved", "resume", "take_device", "demo") and running:
        return "a run is under way"
    if action in ("stop_run", "pause_run", "save_run") and not running:
        return "no run is under way"
    if action in ("pause_run", "save_run") and state.run is not None and state.run.status == "stopping":
        return "the run is being stopped"
    if action == "save_run" and state.run is not None and state.run.status == "paused":
        return "where it is paused, it is saved"
    if action in ("start_run", "run_saved", "compare_plans", "export") and state.saved is None:
        return SAVE_FIRST
    return None


def _why_not_yet(state: State, action: str, parameters: tuple[object, ...]) -> str | None:
    """What is missing for an action that has nothing to do with a run."""
    if action == "go":
        return _why_not_go(state, str(parameters[0]))
    if action in ("save_plan", "mark_price") and state.choice.model is None:
        return MODEL_FIRST
    if action == "save_plan" and state.priced is None:
        return state.price_error or "the price is being worked out"
    if action == "undo" and not state.undo:
        return "nothing to undo"
    if action == "redo" and not state.redo:
        return "nothing to redo"
    if action == "cancel" and not _at_work(state):
        return "nothing is being worked out"
    return None


def _at_work(state: State) -> bool:
    """Something is being worked out that can be given up."""
    waiting = state.choice.model is not None and state.priced is None and not state.price_error
    return waiting or bool(state.narration)


def _why_not_go(state: State, screen: str) -> str | None:
    if screen in ("budget", "compare", "plan") and state.choice.model is None:
        return MODEL_FIRST
    if screen == "run" and state.run is None and state.saved is None:
        return SAVE_FIRST
    return None
