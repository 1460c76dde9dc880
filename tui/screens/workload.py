"""Screen 3: what to train on and what matters: the file, how long its rows are, batch, epochs, task, priorities."""

from collections.abc import Iterable

from textual import work
from textual.containers import Container, Vertical
from textual.widget import Widget
from textual.widgets import Static

from vramplan.tui.bindings import bindings
from vramplan.tui.choice import Choice
from vramplan.tui.screens.step import StepScreen
from vramplan.tui.state import MODEL_FIRST, State
from vramplan.tui.threads import in_thread
from vramplan.tui.widgets.knob_list import KnobList
from vramplan.tui.widgets.length_bars import LengthBars

NO_FILE = (
    "no training file: f chooses one (JSON lines, JSON, CSV, Parquet). Without one every row is taken to be as long as "
    "the sequence length, and a plan cannot be run."
)


class WorkloadScreen(StepScreen):
    """The options of the work itself; below or beside them how long the rows are."""

    step = "workload"
    scopes = ("workload", "knobs")
    BINDINGS = bindings("workload")

    def __init__(self) -> None:
        super().__init__()
        self._asked: object = None

    def body(self) -> Iterable[Widget]:
        with Container(classes="columns"):
            yield KnobList("workload")
            with Vertical():
                yield Static("Lengths of the rows, in tokens", classes="title", markup=False)
                yield LengthBars(id="lengths")

    def on_mount(self) -> None:
        self.query_one(KnobList).focus()

    def action_pick_data(self) -> None:
        """Choose the training file."""
        self.query_one(KnobList).pick_data()

    def show_state(self, state: State) -> None:
        super().show_state(state)
        knobs = state.choice.knobs
        self.query_one(KnobList).show(knobs, state.priced)
        asked = (state.choice.model, knobs.data, knobs.task, knobs.sequence_length)
        if asked == self._asked:
            return
        self._asked = asked
        if knobs.data is None:
            self.workers.cancel_group(self, "measure")
            self.query_one(LengthBars).show(None, NO_FILE)
        elif state.choice.model is None:
            self.query_one(LengthBars).show(None, f"{MODEL_FIRST}: its tokenizer counts the rows")
        else:
            self._measure(state.choice)

    @work(exclusive=True, exit_on_error=False, group="measure")
    async def _measure(self, choice: Choice) -> None:
        bars = self.query_one(LengthBars)
        bars.show(None, f"counting the tokens of {choice.knobs.data} ...")
        try:
            bars.show(await in_thread(self.vramplan.core.measure, choice), NO_FILE)
        except Exception:
            bars.show(None, "not measured")
            raise
        finally:
            self.vramplan.narrate("")
