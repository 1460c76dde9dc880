"""Screen 5: what stands between the plan and a run, then the run as it goes."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on, work
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import RichLog, Sparkline, Static

from vramplan.planner.cli.render import plain
from vramplan.tui.bindings import bindings, key_of
from vramplan.tui.choice import SavedPlan
from vramplan.tui.command_line import run_command
from vramplan.tui.messages import RunWanted
from vramplan.tui.screens.confirm import Confirm
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import EVENTS_KEPT, RunState, RunStatus, State
from vramplan.tui.text import cell, describe_device, line, what_blocks
from vramplan.tui.theme import GREEN, VERMILLION, YELLOW
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.live_memory import LiveMemory
from vramplan.tui.widgets.row_table import RowTable
from vramplan.tui.widgets.run_line import describe_event, describe_run

if TYPE_CHECKING:
    from vramplan.executor.checks import Check

CHECKS = {"ok": ("ok", GREEN), "warns": ("warns", YELLOW), "blocks": ("blocks", VERMILLION)}


SAID: dict[RunStatus, str] = {
    "pausing": "it saves and waits after this step",
    "paused": "p goes on; what is trained so far is saved, the memory stays taken",
    "interrupted": "stopped",
}


class RunScreen(StepScreen):
    """Preflight, then loss, memory against the budget, pace and events."""

    step = "run"
    scopes = ("run",)
    BINDINGS = bindings("run")

    def __init__(self) -> None:
        super().__init__()
        self._checked: SavedPlan | None = None
        self._checks: tuple[Check, ...] = ()
        self._logged = 0

    def command(self) -> str | None:
        saved = self.vramplan.state.saved
        return None if saved is None else run_command(saved)

    def head(self, state: State) -> tuple[str, str]:
        """What runs, where that is not what is planned: the demo, say, or a run that goes on."""
        if state.run is None or state.run.saved == state.saved:
            return super().head(state)
        plan = state.run.saved.plan
        return f"{plan.model.repo_id} · {state.run.saved.path}", describe_device(plan.device)

    def body(self) -> Iterable[Widget]:
        with Vertical(id="checks-box"):
            yield RowTable("check", "verdict", "found", id="checks")
            yield Static(id="check", markup=False)
        with Vertical(id="live-box"):
            yield Static(id="run-line", markup=False)
            yield Sparkline([], id="loss")
            yield LiveMemory()
            yield RichLog(id="events", max_lines=EVENTS_KEPT, markup=False, highlight=False, wrap=True)

    def on_mount(self) -> None:
        self.query_one("#checks").focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        run = state.run
        self.query_one("#checks-box").display = run is None
        self.query_one("#live-box").display = run is not None
        if run is not None:
            self._show_run(run)
        elif state.saved is not None and state.saved != self._checked:
            self._checked = state.saved
            if not state.ask_to_run:
                self._check(state.saved)
        if state.ask_to_run:
            self.vramplan.state = state.model_copy(update={"ask_to_run": False})
            self.action_start_run()

    @work(exclusive=True, exit_on_error=False)
    async def _check(self, saved: SavedPlan) -> None:
        self.notice.say("checking ...")
        if await self._may_run(saved):
            self.notice.say("ready: r starts the run")

    async def _may_run(self, saved: SavedPlan) -> bool:
        """Preflight, shown; what blocks is said with its remedy."""
        preflight = await in_thread(self.vramplan.core.preflight, saved)
        self._checks = preflight.checks
        self.query_one(RowTable).show([_row(check) for check in preflight.checks])
        if not preflight.go:
            self.notice.fail(f"may not run: {what_blocks(preflight)}")
        return preflight.go

    @on(RowTable.RowHighlighted, "#checks")
    def _in_full(self, event: RowTable.RowHighlighted) -> None:
        """What a row has no room for."""
        if 0 <= event.cursor_row < len(self._checks):
            self.query_one("#check", Static).update(line(_found(self._checks[event.cursor_row])))

    def _show_run(self, run: RunState) -> None:
        if run.num_logged < self._logged:  # another run than the one shown before
            self._logged = 0
            self.query_one("#events", RichLog).clear()
        self.query_one("#run-line", Static).update(describe_run(run))
        self.query_one(Sparkline).data = run.losses
        self.query_one(LiveMemory).show(run.saved.plan.budget, run.step)
        log = self.query_one(RichLog)
        unseen = run.log[-(run.num_logged - self._logged) :] if run.num_logged > self._logged else ()
        for event in unseen:
            log.write(Text(plain(describe_event(event))))
        self._logged = run.num_logged
        if run.status == "done":
            self.notice.say(f"done: {key_of('runs')} sets the estimate beside what happened")
        elif run.failure:
            self.notice.fail(run.failure)
        elif run.status in SAID:
            self.notice.say(SAID[run.status])

    @work(exit_on_error=False, group="ask")
    async def action_start_run(self) -> None:
        """Start the saved plan, once confirmed."""
        saved = self.vramplan.state.saved
        if saved is None or not await self._may_run(saved):
            return
        if await self.app.push_screen_wait(Confirm(f"Run {saved.path} now?")):
            self._checked = None
            self.post_message(RunWanted(saved))
        else:
            self.notice.say("ready: r starts the run")

    def action_pause_run(self) -> None:
        """Pause the run, or let it go on."""
        self.notice.say("")
        self.vramplan.pause_run()

    def action_save_run(self) -> None:
        """A checkpoint after this step."""
        self.vramplan.core.checkpoint()
        self.notice.say("it saves after this step")

    @work(exit_on_error=False, group="ask")
    async def action_stop_run(self) -> None:
        """Stop the run, once confirmed."""
        if await self.app.push_screen_wait(Confirm("Stop the run? What it saved so far stays.")):
            await self.vramplan.stop_run()


def _row(check: "Check") -> tuple[str | Text, ...]:
    word, colour = CHECKS[check.verdict]
    return (check.name, cell(word, style=f"bold {colour}"), _found(check))


def _found(check: "Check") -> str:
    return check.found if check.remedy is None else f"{check.found} — {check.remedy}"
