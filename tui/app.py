"""The app: nine numbered screens over one frozen state. It decides nothing and computes nothing."""

import asyncio
import gc
import os
from collections.abc import Sequence
from contextlib import aclosing
from functools import partial

from textual import events, on, work
from textual.filter import LineFilter
from textual.theme import Theme
from textual.worker import Worker, WorkerState

from vramplan.planner.device import Device
from vramplan.planner.errors import PreflightError, VramplanError
from vramplan.tui.choice import Choice
from vramplan.tui.core import Core
from vramplan.tui.light import Darker
from vramplan.tui.messages import ChatWanted, DeviceChosen, KnobsChanged, ModelChosen, PlanSaved, RunWanted
from vramplan.tui.navigation import NavigatedApp
from vramplan.tui.remembered import Recent, Remembered
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import RunState, State
from vramplan.tui.text import describe_error, what_blocks
from vramplan.tui.threads import in_thread

PAUSE_SECONDS = 0.15
"""A key pressed within it takes the place of the last one: only then is the whole price worked out."""

CANCELLABLE = ("price", "measure", "mark", "hub", "read", "open", "demo")
"""Groups of workers whose work a person may give up."""

DRAW_SECONDS = 0.1
"""Between two drawings of a run's events."""


class VramplanApp(NavigatedApp):
    """``vramplan`` without arguments."""

    TITLE = "vramplan"
    CSS_PATH = "app.tcss"

    def __init__(self, core: Core, *, may_run: bool = True) -> None:
        # Greys are colours too: where none are wanted, the terminal's own two are all there are.
        super().__init__(ansi_color="NO_COLOR" in os.environ or None)
        self.core = core
        self.state = State.model_construct(may_run=may_run)  # a validator of all that a state holds takes longer
        self.remembered = core.remembered()
        self._darker = Darker()
        self._will_draw = False
        self._frozen = False

    def get_line_filters(self) -> Sequence[LineFilter]:
        """On a light ground the colours of numbers are darker."""
        filters = super().get_line_filters()
        return filters if self.current_theme.dark else [*filters, self._darker]

    async def on_mount(self) -> None:
        self.begin_capture_print(self, stdout=False)
        if self.remembered.theme in self.available_themes:
            self.theme = self.remembered.theme
        self.theme_changed_signal.subscribe(self, self._theme_changed)
        await self.push_screen("model")
        self.call_after_refresh(gc.enable)
        self.call_after_refresh(self._find_device)  # the frame first

    def _theme_changed(self, theme: Theme) -> None:
        self.keep(self.remembered.model_copy(update={"theme": theme.name}))

    def change(self, state: State) -> None:
        """Take a new state and draw it, on the screen in sight alone; another is drawn when it comes up."""
        self.state = state
        screen = next((each for each in reversed(self.screen_stack) if isinstance(each, StepScreen)), None)
        if screen is not None and screen.is_whole:
            screen.show_state(state)

    def on_print(self, event: events.Print) -> None:
        """What the core narrates on stderr goes to the notice line."""
        if event.text.strip():
            self.narrate(event.text.strip())

    def narrate(self, text: str) -> None:
        """Say what is being done just now; an empty text when it is done."""
        self.change(self.state.model_copy(update={"narration": text}))

    @work(exclusive=True, exit_on_error=False, group="device")
    async def _find_device(self) -> None:
        """What the last session planned for, where that was named; else what is here."""
        kept = self.remembered.device
        try:
            found = self.core.default_device if kept is None else partial(self.core.named_device, kept)
            device, note = await in_thread(found)
        except VramplanError:  # a product that is not known any more
            device, note = await in_thread(self.core.default_device)
        self._reprice(self.state.choosing(device=device).model_copy(update={"device_note": note}))

    def _remember(self, device: Device | None = None, model: str | None = None) -> None:
        """Keep the last choices for the next time."""
        kept = self.remembered
        if device is not None:
            named = {"profile": device.name, "memory": device.name}.get(device.source)
            kept = kept.model_copy(update={"device": "cpu" if device.kind == "cpu" else named})
        if model is not None:
            kept = kept.having(Recent(model=model, knobs=self.state.choice.knobs))
        self.keep(kept)

    def keep(self, remembered: Remembered) -> None:
        """Remember this from now on."""
        if remembered != self.remembered:
            self.remembered = remembered
            self.core.remember(remembered)

    @on(ModelChosen)
    async def _model_chosen(self, event: ModelChosen) -> None:
        knobs = event.knobs or self.state.choice.knobs
        if event.method is not None:
            knobs = knobs.model_copy(update={"method": event.method})
        self._reprice(self.state.choosing(model=event.model, knobs=knobs))
        self._remember(model=event.model.provenance.location)
        await self.action_go("budget")

    @on(KnobsChanged)
    def _knobs_changed(self, event: KnobsChanged) -> None:
        self._reprice(self.state.turning(event.knobs))

    def _reprice(self, state: State) -> None:
        self.change(state)
        if state.choice.model is not None:
            self._price()

    @work(exclusive=True, exit_on_error=False, group="price")
    async def _price(self) -> None:
        """What is allocated, at once; the whole price when the keys rest."""
        choice = self.state.choice
        await self._glance(choice)
        await asyncio.sleep(PAUSE_SECONDS)
        try:
            priced = await in_thread(self.core.price, choice)
        except Exception as error:  # whatever it is, the setup has no price and the screen says why
            self.change(self.state.model_copy(update={"price_error": describe_error(error), "narration": ""}))
            return
        self.change(self.state.model_copy(update={"priced": priced, "narration": ""}))
        if not self._frozen:
            self._frozen = True
            gc.freeze()  # the catalogue and the programs stay: looking through them is a tenth of a second in mid-key
        if self.state.glance is None:  # its program was traced just now
            await self._glance(choice)

    async def _glance(self, choice: Choice) -> None:
        try:
            glance = await in_thread(self.core.glance, choice)
        except VramplanError:  # the price will say what is wrong, or trace what is missing
            self.change(self.state.model_copy(update={"slow": True}))
        else:
            self.change(self.state.model_copy(update={"glance": glance, "slow": False}))

    def action_undo(self) -> None:
        """Take the last change of an option back."""
        self._reprice(self.state.undone())

    def action_redo(self) -> None:
        """Make the change again that was taken back last."""
        self._reprice(self.state.redone())

    @on(PlanSaved)
    def _plan_saved(self, event: PlanSaved) -> None:
        under_way = self.state.run is not None and self.state.run.under_way
        run = self.state.run if under_way else None
        self.change(self.state.model_copy(update={"saved": event.saved, "run": run}))

    @on(RunWanted)
    def _run_wanted(self, event: RunWanted) -> None:
        self.change(self.state.model_copy(update={"run": RunState(saved=event.saved)}))
        self._follow(event)

    @work(exclusive=True, exit_on_error=False, group="run")
    async def _follow(self, wanted: RunWanted) -> None:
        async with aclosing(self.core.launch(wanted.saved, resume=wanted.resume)) as events:
            async for event in events:
                self.state = self.state.model_copy(update={"run": self._run().after(event)})
                self._draw_soon()
        run = self._run().ended()
        self._change_run(run)
        if run.status == "done" and run.saved.plan.later_stages:
            following = await in_thread(self.core.next_stage, run.saved)
            if following is not None:
                self.post_message(RunWanted(following))

    def _draw_soon(self) -> None:
        """A child may say much at once: it is drawn a few times a second, however many events there are."""
        if not self._will_draw:
            self._will_draw = True
            self.set_timer(DRAW_SECONDS, self._draw)

    def _draw(self) -> None:
        self._will_draw = False
        self.change(self.state)

    def _run(self) -> RunState:
        if self.state.run is None:
            raise RuntimeError("no run is being followed")
        return self.state.run

    def _change_run(self, run: RunState) -> None:
        self.change(self.state.model_copy(update={"run": run}))

    @work(exclusive=True, exit_on_error=False, group="demo")
    async def action_demo(self) -> None:
        """Train the demo's small model on what is here, once confirmed."""
        from vramplan.tui.screens.confirm import Confirm

        try:
            saved = await in_thread(self.core.demo)
            preflight = await in_thread(self.core.preflight, saved)
        finally:
            self.narrate("")
        if not preflight.go:
            raise PreflightError(f"the demo may not run: {what_blocks(preflight)}")
        if await self.push_screen_wait(Confirm(f"Train a small model here now? Its plan is {saved.path}")):
            self.post_message(RunWanted(saved))
            self.call_later(self.action_go, "run")

    @on(Worker.StateChanged)
    def _worker_failed(self, event: Worker.StateChanged) -> None:
        if event.state is not WorkerState.ERROR or event.worker.error is None:
            return
        message = describe_error(event.worker.error)
        if event.worker.group == "run" and self.state.run is not None:
            self._change_run(self._run().model_copy(update={"status": "failed", "failure": message}))
        elif isinstance(self.screen, StepScreen) and self.screen.is_whole:
            self.screen.notice.fail(message)

    async def stop_run(self) -> None:
        """Ask the training child to stop; its last events are still shown."""
        if self._run().under_way:
            self._change_run(self._run().model_copy(update={"status": "stopping"}))
            self.core.stop()

    def pause_run(self) -> None:
        """Ask the training child to wait after its step; asked again, to go on."""
        run = self._run()
        if run.status == "running":
            self._change_run(run.model_copy(update={"status": "pausing"}))
            self.core.pause()
        elif run.under_way:
            self._change_run(run.model_copy(update={"status": "running"}))
            self.core.go_on()

    @on(DeviceChosen)
    async def _device_chosen(self, event: DeviceChosen) -> None:
        self.workers.cancel_group(self, "device")
        await self.action_back()  # first: who sees the device chosen types for the screen before
        self._reprice(self.state.choosing(device=event.device).model_copy(update={"device_note": event.note}))
        self._remember(event.device)

    @on(ChatWanted)
    async def _chat_wanted(self, event: ChatWanted) -> None:
        self.change(self.state.model_copy(update={"chat": event.folders}))
        await self.action_go("chat")

    async def action_run_saved(self) -> None:
        """Check the saved plan, and ask whether it shall run."""
        self.change(self.state.model_copy(update={"ask_to_run": True}))
        await self.action_go("run")

    def action_cancel(self) -> None:
        """Give up what is being worked out: a price, a trace, a count, a search."""
        for worker in self.workers:
            if worker.group in CANCELLABLE:
                worker.cancel()
        waiting = self.state.choice.model is not None and self.state.priced is None
        said = "given up; turn an option to price it again" if waiting else self.state.price_error
        self.change(self.state.model_copy(update={"price_error": said, "narration": ""}))

    @work(exit_on_error=False, group="quit")
    async def _leave(self) -> None:
        """Leave; a run under way is stopped first, once confirmed."""
        if self.state.run is not None and self.state.run.under_way:
            from vramplan.tui.screens.confirm import Confirm

            if not await self.push_screen_wait(Confirm("A run is under way. Stop it and leave?")):
                return
            await self.stop_run()
            await self.workers.wait_for_complete([w for w in self.workers if w.group == "run"])
        self.exit(0)

    async def action_quit(self) -> None:
        """What ctrl+q and the palette do too."""
        self._leave()
