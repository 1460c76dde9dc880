"""Screen 4: what will run, to the last option, and the file that pins it."""

from collections.abc import Iterable, Iterator

from rich.table import Table
from rich.text import Text
from textual import on, work
from textual.containers import VerticalScroll
from textual.widget import Widget
from textual.widgets import Static

from vramplan.planner.cli.render import plain
from vramplan.planner.plan import Plan
from vramplan.planner.plan_diff import differences
from vramplan.planner.units import format_bytes, format_count
from vramplan.tui.bindings import bindings, key_of
from vramplan.tui.choice import Priced, SavedPlan
from vramplan.tui.messages import PlanSaved
from vramplan.tui.screens.files import FilePicker
from vramplan.tui.screens.pick import Pick
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import State
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.budget_table import headline


class PlanScreen(StepScreen):
    """Read it, save it, run it."""

    step = "plan"
    scopes = ("plan",)
    BINDINGS = bindings("plan")

    def __init__(self) -> None:
        super().__init__()
        self._difference: tuple[SavedPlan, list[tuple[str, str | Text]]] | None = None

    def body(self) -> Iterable[Widget]:
        with VerticalScroll(id="plan-box"):
            yield Static(id="plan", markup=False)

    def on_mount(self) -> None:
        self.query_one("#plan-box").focus()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        self.query_one("#plan", Static).update(_table(state, self.vramplan.command() or "", self._differing(state)))

    def _differing(self, state: State) -> list[tuple[str, str | Text]]:
        """What differs from another plan, as long as this one is the plan that was compared."""
        shown = self._difference
        return [] if shown is None or shown[0] != state.saved else shown[1]

    @work(exit_on_error=False, group="ask")
    async def action_compare_plans(self) -> None:
        """Set the saved plan beside another, and show what differs."""
        saved = self.vramplan.state.saved
        picker = FilePicker(self.vramplan.core, "runs/", title="another plan file", suffixes=(".json",))
        path = await self.app.push_screen_wait(picker)
        if saved is not None and path:
            other = await in_thread(self.vramplan.core.read_plan, path)
            self._difference = (saved, _differences(saved, path, other))
            self.show_state(self.vramplan.state)

    @work(exit_on_error=False, group="ask")
    async def action_export(self) -> None:
        """Write the saved plan for something else that trains."""
        saved = self.vramplan.state.saved
        engine = await self.app.push_screen_wait(Pick("export to", self.vramplan.core.engines()))
        if saved is not None and engine is not None:
            written = await in_thread(self.vramplan.core.export, saved, engine)
            self.notice.say(f"written: {', '.join(written)}")

    def action_save_plan(self) -> None:
        """Write the plan file."""
        self._save()

    @work(exclusive=True, exit_on_error=False)
    async def _save(self) -> None:
        saved = await in_thread(self.vramplan.core.save_plan, self.vramplan.state.choice)
        self.post_message(PlanSaved(saved))

    @on(PlanSaved)
    def _say_where(self, event: PlanSaved) -> None:
        self.notice.say(f"written: {event.saved.path}; r checks and runs it")


def _differences(saved: SavedPlan, path: str, other: Plan) -> list[tuple[str, str | Text]]:
    found = differences(saved.plan, other)
    rows: list[tuple[str, str | Text]] = [("beside", path if found else f"{path}: nothing differs")]
    return [*rows, *((each.name, f"{each.mine}  │  there: {each.theirs}") for each in found)]


def _table(state: State, command: str, differing: list[tuple[str, str | Text]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1, overflow="fold")
    rows: list[tuple[str, str | Text]] = [("plan file", state.saved.path if state.saved else "not saved yet (s)")]
    rows += differing
    if state.priced is not None:
        rows += _facts(state.priced)
    else:
        rows.append(("price", state.price_error or "pricing ..."))
    rows.append(("command", command))
    for name, value in rows:
        table.add_row(name, value if isinstance(value, Text) else Text(plain(value)))
    return table


def _facts(priced: Priced) -> Iterator[tuple[str, str | Text]]:
    candidate, recipe = priced.candidate, priced.recipe
    setup, workload = candidate.setup, candidate.workload
    yield "verdict", headline(candidate)
    yield "because", candidate.verdict_reason
    for stage in priced.stages:
        yield "stages", stage
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
    epochs = "1 epoch" if recipe.num_train_epochs == 1 else f"{recipe.num_train_epochs:g} epochs"
    length = epochs if recipe.max_steps is None else f"{recipe.max_steps} steps"
    yield (
        "training",
        f"{length} · learning rate {recipe.learning_rate:g} · {recipe.lr_scheduler_type} · seed {recipe.seed}",
    )
    yield "data", recipe.data or f"none: choose a training file ({key_of('workload')})"
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
