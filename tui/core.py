"""What the app asks of the planner and the executor: one protocol, so that the app can be tested against a fake."""

from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Protocol

from vramplan.executor.events import Event
from vramplan.planner.cli.glance import Glance
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.largest import Largest
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.plan import Plan
from vramplan.tui.choice import Choice, Compared, Entry, Knobs, MeasuredRows, Priced, SavedPlan
from vramplan.tui.remembered import Remembered

if TYPE_CHECKING:  # the supervisor behind these takes a third of the app's start to import
    from vramplan.executor.preflight import Preflight
    from vramplan.executor.runs import PastRun
    from vramplan.planner.adapters.hub_search import HubModel
    from vramplan.planner.adapters.models import ModelSummary


class Chat(Protocol):
    """A loaded base with the adapters of runs on it. All but ``stop`` block; one at a time."""

    @property
    def voices(self) -> tuple[str, ...]:
        """Who can answer."""

    @property
    def voice(self) -> str:
        """Who answers now."""

    def use(self, voice: str) -> None:
        """Let another answer; the conversation begins anew."""

    def clear(self) -> None:
        """Forget the conversation."""

    def answer(self, prompt: str) -> Iterator[str]:
        """The pieces of an answer as they come."""

    def stop(self) -> None:
        """Cut the answer short."""

    def close(self) -> None:
        """End the process that holds the model."""


class Core(Protocol):
    """Every method but ``launch`` and ``stop`` may block, so the app calls it in a thread; any can raise our errors."""

    def default_device(self) -> tuple[Device | None, str]:
        """The device the command line would plan for, and a sentence saying how it was found."""

    def devices(self) -> tuple[Device, ...]:
        """What is here, accelerators first, the CPU last."""

    def profiles(self) -> tuple[DeviceProfile, ...]:
        """Every product with a data sheet."""

    def named_device(self, text: str) -> tuple[Device | None, str]:
        """A device by product name, or by a bare size such as ``12GiB``."""

    def search_models(self, query: str, limit: int) -> "tuple[ModelSummary, ...]":
        """Catalogue models whose name holds the query, best first."""

    def resolve_model(self, text: str) -> ModelSpec:
        """A catalogue id, a folder or a Hub id as a model."""

    def search_hub(self, query: str) -> "tuple[HubModel, ...]":
        """Repositories on the Hub whose name holds the query, the most downloaded first."""

    def measure(self, choice: Choice) -> MeasuredRows | None:
        """The training file of a choice with a model, read and its rows counted; None where it names none."""

    def entries(self, folder: str, suffixes: tuple[str, ...]) -> tuple[Entry, ...]:
        """What of a folder can be chosen: files that end so, then folders."""

    def largest(self, device: Device, knobs: Knobs) -> Iterator[Largest]:
        """Per method, the largest catalogue model this device can tune; yields as it looks."""

    def glance(self, choice: Choice) -> Glance:
        """What a choice with a model allocates, at once: no allocator, no names."""

    def price(self, choice: Choice) -> Priced:
        """The price of a choice with a model."""

    def compare(self, choice: Choice) -> tuple[Compared, ...]:
        """Every method priced with the same knobs, best first, what does not fit last."""

    def save_plan(self, choice: Choice) -> SavedPlan:
        """Price, freeze and write the plan file, to a folder of its own."""

    def demo(self) -> SavedPlan:
        """The plan of a small model's short run on what is here, written to a folder of its own."""

    def read_plan(self, path: str) -> Plan:
        """The plan of a file."""

    def engines(self) -> tuple[tuple[str, str], ...]:
        """What a plan can be exported to: name, and what that is."""

    def export(self, saved: SavedPlan, engine: str) -> tuple[str, ...]:
        """Write a plan for something else; the files, beside the plan."""

    def preflight(self, saved: SavedPlan) -> "Preflight":
        """What stands between this plan and a run, now."""

    def launch(self, saved: SavedPlan, *, resume: bool = False) -> AsyncGenerator[Event, None]:
        """Start the training child and yield what it says until it ends; closing the generator stops it."""

    def next_stage(self, saved: SavedPlan) -> SavedPlan | None:
        """Of a plan of two stages whose first has finished, the second, on its merged result; None of any other."""

    def stop(self) -> None:
        """Ask the child that runs now to stop after its step; its last events still arrive."""

    def pause(self) -> None:
        """Ask the child that runs now to save and wait after its step."""

    def go_on(self) -> None:
        """Let the child that was asked to wait go on."""

    def checkpoint(self) -> None:
        """Ask the child that runs now to save after its step."""

    def runs(self) -> "tuple[tuple[PastRun, ...], tuple[str, ...]]":
        """What was run here, the latest first, and why folders were left out."""

    def merge(self, folder: str) -> str:
        """Fold a finished run's adapter into its base; where the result lies."""

    def open_chat(self, folders: tuple[str, ...]) -> Chat:
        """Load one base with the adapters of these finished runs."""

    def remembered(self) -> Remembered:
        """What was chosen the last time."""

    def remember(self, remembered: Remembered) -> None:
        """Keep it for the next time."""
