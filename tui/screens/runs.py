"""Screen 6: the estimate beside what really happened."""

import asyncio
from collections.abc import Iterable, Iterator

from textual import work
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Static

from vramplan.planner.explain import Compared, Explanation
from vramplan.planner.report import RunReport
from vramplan.planner.units import format_bytes
from vramplan.tui.choice import SavedPlan
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.text import line
from vramplan.tui.widgets.row_table import RowTable
from vramplan.tui.widgets.run_line import clock


class ReportScreen(StepScreen):
    """Every line of the budget with its measurement."""

    step = "report"

    def __init__(self) -> None:
        super().__init__()
        self._read: str | None = None

    def body(self) -> Iterable[Widget]:
        yield Static(id="outcome", markup=False)
        yield RowTable("", ">estimate", ">up to", ">actual", ">error", "", id="actuals")
        yield Static(id="remarks", markup=False)

    def on_mount(self) -> None:
        self.query_one(RowTable).focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        run = state.run
        if run is not None and run.report is not None and run.report != self._read:
            self._read = run.report
            self._explain(run.saved, run.report)

    @work(exclusive=True, exit_on_error=False)
    async def _explain(self, saved: SavedPlan, report_path: str) -> None:
        explained = await asyncio.to_thread(self.vramplan.core.explain, saved, report_path)
        self._show(explained)

    def _show(self, explained: Explanation) -> None:
        self.query_one("#outcome", Static).update(line(_outcome(explained.report) if explained.report else ""))
        self.query_one(RowTable).show(list(_rows(explained)))
        self.query_one("#remarks", Static).update(Content("\n").join(line(remark) for remark in explained.remarks))


def _outcome(report: RunReport) -> str:
    parts = [f"{report.status} after {report.steps} steps in {clock(report.seconds)}"]
    if report.first_loss is not None and report.last_loss is not None:
        parts.append(f"loss {report.first_loss:.4f} → {report.last_loss:.4f}")
    if report.eval_loss_before is not None and report.eval_loss_after is not None:
        parts.append(f"held-out {report.eval_loss_before:.4f} → {report.eval_loss_after:.4f}")
    if report.tokens_per_second is not None:
        parts.append(f"{report.tokens_per_second:.0f} tokens/s")
    parts.append(report.output_dir)
    return " · ".join(parts)


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
