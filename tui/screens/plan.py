"""Screen 4: what will run, to the last option, and the file that pins it."""

import asyncio
from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text
from textual import on, work
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from vramplan.planner.cli.render import plain
from vramplan.planner.units import format_bytes, format_count
from vramplan.tui.bindings import bindings
from vramplan.tui.choice import Priced
from vramplan.tui.messages import PlanSaved
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.widgets.budget_table import headline


class PlanScreen(StepScreen):
    """Read it, save it, run it."""

    step = "plan"
    scopes = ("plan",)
    BINDINGS = bindings("plan")

    def body(self) -> Iterable[Widget]:
        with VerticalScroll(id="plan-box"):
            yield Static(id="plan", markup=False)

    def on_mount(self) -> None:
        self.query_one("#plan-box").focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        self.query_one("#plan", Static).update(_table(state, self.vramplan.command() or ""))

    def action_save_plan(self) -> None:
        """Write the plan file."""
        self._save()

    @work(exclusive=True, exit_on_error=False)
    async def _save(self) -> None:
        saved = await asyncio.to_thread(self.vramplan.core.save_plan, self.vramplan.state.choice)
        self.post_message(PlanSaved(saved))

    @on(PlanSaved)
    def _say_where(self, event: PlanSaved) -> None:
        self.notice.say(f"written: {event.saved.path}; r checks and runs it")


def _table(state: State, command: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1, overflow="fold")
    rows: list[tuple[str, str | Text]] = []
    if state.priced is not None:
        rows += _facts(state.priced)
    else:
        rows.append(("price", state.price_error or "pricing ..."))
    rows.append(("plan file", state.saved.path if state.saved else "not saved yet (s)"))
    rows.append(("command", command))
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    return table


def _facts(priced: Priced) -> Iterator[tuple[str, str | Text]]:
    candidate, recipe = priced.candidate, priced.recipe
    setup, workload = candidate.setup, candidate.workload
    yield "verdict", headline(candidate)
    yield "because", candidate.verdict_reason
    yield "method", _options(setup.method.model_dump(mode="json"))
    yield "trains", f"{format_count(candidate.trainable_params)} of {format_count(candidate.total_params)} params"
    yield (
        "batch",
        f"{setup.micro_batch_size} × {setup.gradient_accumulation_steps} accumulation"
        f" · sequence length {workload.sequence_length}",
    )
    yield "precision", _options(setup.precision.model_dump(mode="json"))
    yield (
        "step",
        f"{setup.optimizer} · {setup.loss} loss · {setup.attention} attention · "
        f"gradient checkpointing {'on' if setup.gradient_checkpointing else 'off'}",
    )
    length = f"{recipe.num_train_epochs:g} epochs" if recipe.max_steps is None else f"{recipe.max_steps} steps"
    yield (
        "training",
        f"{length} · learning rate {recipe.learning_rate:g} · {recipe.lr_scheduler_type} · seed {recipe.seed}",
    )
    yield "data", recipe.data or "none: set a training file on screen 2"
    yield "held", f"{format_bytes(candidate.budget.steady_allocated_bytes)} at the end of a step"
    yield "estimate", candidate.provenance.basis
    if not candidate.runnable:
        yield "runs", f"no: {candidate.not_runnable_because}"
    for warning in candidate.warnings:
        yield "warning", warning


def _options(values: dict[str, object]) -> str:
    kind = str(values.pop("kind", ""))
    shown = (f"{name} {value}" for name, value in values.items() if value != [])
    return " · ".join([*([kind] if kind else []), *shown])
