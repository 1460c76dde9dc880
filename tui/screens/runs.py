"""Screen 6: what was run here; of each run, the estimate beside what really happened."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text
from textual import on, work
from textual.containers import Vertical
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from vramplan.planner.cli.ledger import method_words
from vramplan.planner.explain import Compared, Explanation, explain
from vramplan.planner.report import RunReport
from vramplan.planner.units import format_bytes
from vramplan.tui.bindings import bindings, key_of
from vramplan.tui.choice import SavedPlan
from vramplan.tui.messages import ChatWanted, RunWanted
from vramplan.tui.screens.confirm import Confirm
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import cell, line, what_blocks
from vramplan.tui.theme import GREEN, GREY, SKY, VERMILLION
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.row_table import RowTable
from vramplan.tui.widgets.run_line import clock

if TYPE_CHECKING:
    from vramplan.executor.runs import PastRun

COLOURS = {"done": GREEN, "running": SKY, "paused": SKY, "failed": VERMILLION, "killed": VERMILLION}
NO_RUNS = f"no runs here yet: save a plan ({key_of('plan')}) and run it ({key_of('run')})"
RESUMABLE = ("failed", "interrupted", "killed")
NOT_BEGUN = ("planned", "verified")


class RunsScreen(StepScreen):
    """The latest run first; of the one under the cursor every line of its budget with its measurement."""

    step = "runs"
    scopes = ("runs", "list")
    BINDINGS = bindings("runs")

    def __init__(self) -> None:
        super().__init__()
        self._runs: tuple[PastRun, ...] = ()
        self._marked: tuple[str, ...] = ()

    def body(self) -> Iterable[Widget]:
        yield RowTable("run", "status", ">planned", ">used", "model", "method", ">steps", ">loss", id="runs")
        with Vertical(id="past-box"):
            yield Static(id="outcome", markup=False)
            yield RowTable("", ">estimate", ">up to", ">actual", ">error", "", id="actuals")
            yield Static(id="remarks", markup=False)

    def on_mount(self) -> None:
        self.query_one("#runs", RowTable).focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        self._read_runs()

    @work(exclusive=True, exit_on_error=False)
    async def _read_runs(self) -> None:
        runs, unreadable = await in_thread(self.vramplan.core.runs)
        if runs != self._runs:
            self._runs = runs
            self.query_one("#runs", RowTable).show([_run_row(run, run.folder in self._marked) for run in runs])
            self._show(self._chosen())
        if not runs:
            self.query_one("#outcome", Static).update(line(NO_RUNS))
        if unreadable:
            self.notice.say(f"left out: {'; '.join(unreadable)}")

    def _chosen(self) -> "PastRun | None":
        at = self.query_one("#runs", RowTable).cursor_row
        return self._runs[at] if 0 <= at < len(self._runs) else None

    @on(RowTable.RowHighlighted, "#runs")
    def _highlighted(self) -> None:
        self._show(self._chosen())

    def _show(self, run: "PastRun | None") -> None:
        report = None if run is None else run.report or run.verification
        rows: list[tuple[str, ...]] = []
        remarks: tuple[str, ...] = ()
        if run is not None and report is not None:
            explained = explain(run.plan, report)
            rows = [*_ladder_rows(report), *_rows(explained)]
            remarks = explained.remarks
        self.query_one("#outcome", Static).update(line(_outcome(run, report)))
        self.query_one("#actuals", RowTable).show(rows)
        self.query_one("#remarks", Static).update(Content("\n").join(line(remark) for remark in remarks))

    def command(self) -> str | None:
        """What goes on from where the chosen run stands."""
        from vramplan.executor.runs_cli import next_command

        run = self._chosen()
        return None if run is None else next_command(run)

    def action_mark(self) -> None:
        """Mark the chosen run for a chat with several, or take the mark away."""
        run = self._chosen()
        if run is not None:
            others = tuple(folder for folder in self._marked if folder != run.folder)
            self._marked = others if run.folder in self._marked else (*self._marked, run.folder)
            self.query_one("#runs", RowTable).show([_run_row(each, each.folder in self._marked) for each in self._runs])

    def action_chat(self) -> None:
        """Ask what came of the marked runs, or of the chosen one."""
        run = self._chosen()
        folders = self._marked or (() if run is None else (run.folder,))
        unfinished = [each.folder for each in self._runs if each.folder in folders and each.status != "done"]
        if unfinished or not folders:
            self.notice.say(f"nobody to talk to: {', '.join(unfinished) or 'no run'} has not finished")
        else:
            self.vramplan.post_message(ChatWanted(folders))

    @work(exit_on_error=False, group="ask")
    async def action_merge(self) -> None:
        """Fold the chosen run's adapter into its base, once confirmed."""
        run = self._chosen()
        if run is None or run.status != "done":
            self.notice.say("nothing to merge: choose a run that is done")
        elif await self.app.push_screen_wait(Confirm(f"Merge the adapter of {run.folder} into its base?")):
            self.notice.say(f"merging {run.folder} ...")
            output = await in_thread(self.vramplan.core.merge, run.folder)
            self.notice.say(f"written: {output}")

    @work(exit_on_error=False, group="ask")
    async def action_resume(self) -> None:
        """Go on from the chosen run's newest checkpoint, or begin what was only planned, once confirmed."""
        run = self._chosen()
        if run is not None and run.status in NOT_BEGUN:
            await self._begin(_saved(run))
        elif run is not None and run.status == "done" and self._next_is_left(run):
            await self._begin_next(run)
        elif run is None or run.status not in RESUMABLE or run.checkpoint_step is None:
            said = "no run is chosen" if run is None else f"{run.folder} is {run.status}"
            self.notice.say(f"nothing to go on from: {said}{'' if run is None else _checkpoint_words(run)}")
        elif await self.app.push_screen_wait(Confirm(f"Go on with {run.folder} from step {run.checkpoint_step}?")):
            self._follow(_saved(run), resume=True)

    def _next_is_left(self, run: "PastRun") -> bool:
        """It is the first of two stages, and the second has not begun."""
        begun = {each.folder for each in self._runs}
        return bool(run.plan.later_stages) and not any(folder.startswith(f"{run.folder}/") for folder in begun)

    async def _begin(self, saved: SavedPlan) -> None:
        preflight = await in_thread(self.vramplan.core.preflight, saved)
        if not preflight.go:
            self.notice.fail(f"may not run: {what_blocks(preflight)}")
        elif await self.app.push_screen_wait(Confirm(f"Run {saved.path} now?")):
            self._follow(saved)

    async def _begin_next(self, run: "PastRun") -> None:
        if await self.app.push_screen_wait(Confirm(f"Go on with the second stage of {run.folder}?")):
            self.notice.say(f"merging {run.folder} ...")
            following = await in_thread(self.vramplan.core.next_stage, _saved(run))
            if following is not None:
                self._follow(following)

    def _follow(self, saved: SavedPlan, *, resume: bool = False) -> None:
        self.vramplan.post_message(RunWanted(saved, resume=resume))
        self.call_later(self.vramplan.action_go, "run")


def _saved(run: "PastRun") -> SavedPlan:
    return SavedPlan(path=str(Path(run.folder) / "plan.json"), plan=run.plan)


def _checkpoint_words(run: "PastRun") -> str:
    return ", without a complete checkpoint" if run.status in RESUMABLE else ""


def _run_row(run: "PastRun", marked: bool) -> tuple[str | Text, ...]:
    from vramplan.executor.runs import run_name

    report, name = run.report, run_name(Path(run.folder))
    used = None if report is None else report.process_bytes
    return (
        f"• {name}" if marked else name,
        cell(run.status, style=f"bold {COLOURS.get(run.status, GREY)}"),
        format_bytes(run.plan.budget.process_bytes),
        "–" if used is None else format_bytes(used),
        run.plan.model.repo_id,
        method_words(run.plan.setup.method),
        "" if report is None else str(report.steps),
        "" if report is None or report.last_loss is None else f"{report.last_loss:.4f}",
    )


def _outcome(run: "PastRun | None", report: RunReport | None) -> str:
    if run is None:
        return ""
    if report is None:
        return f"{run.folder} is {run.status}: nothing was measured yet"
    parts = [f"{report.status} after {report.steps} steps in {clock(report.seconds)}"]
    if report.first_loss is not None and report.last_loss is not None:
        parts.append(f"loss {report.first_loss:.4f} → {report.last_loss:.4f}")
    if report.eval_loss_before is not None and report.eval_loss_after is not None:
        parts.append(f"held-out {report.eval_loss_before:.4f} → {report.eval_loss_after:.4f}")
    if report.tokens_per_second is not None:
        parts.append(f"{report.tokens_per_second:.0f} tokens/s")
    if run.checkpoint_step is not None and run.status in RESUMABLE:
        parts.append(f"checkpoint at step {run.checkpoint_step}")
    return " · ".join([*parts, report.output_dir])


def _ladder_rows(report: RunReport) -> Iterator[tuple[str, ...]]:
    """What was changed so that it could go on."""
    for rung in report.ladder:
        yield (f"out of memory: {rung.change}", "", "", "", "", "")


def _rows(explained: Explanation) -> Iterator[tuple[str, ...]]:
    for figure in explained.figures:
        yield _row(figure.name, figure)
    for phase in explained.phases:
        yield _row(f"{phase.name.replace('_', ' ')}, allocated", phase)
        for each in phase.lines:
            if each.actual_bytes is not None:
                yield _row(f"  {each.component.replace('_', ' ')}", each)


def _row(name: str, each: Compared) -> tuple[str, ...]:
    sizes = (
        "–" if size is None else format_bytes(size)
        for size in (each.estimate_bytes, each.high_bytes, each.actual_bytes)
    )
    error = "" if each.error_fraction is None else f"{each.error_fraction:+.1%}"
    return (name, *sizes, error, "over" if each.above_high else "")
