"""A core without torch, network or disk: real option resolution, invented prices, scripted runs."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

from tests.fakes import make_budget, make_candidate, make_cpu, make_device, make_model_spec, make_plan, make_report
from vramplan.executor.checks import Check
from vramplan.executor.events import Event, Failed, Finished, Measured, Paused, Progress, Resumed, Saved, Started, Step
from vramplan.executor.preflight import Preflight
from vramplan.executor.runs import PastRun
from vramplan.planner.adapters.hub_search import HubModel
from vramplan.planner.adapters.models import ModelSummary
from vramplan.planner.cli.glance import Glance
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import UnknownModelError
from vramplan.planner.largest import Largest, largest
from vramplan.planner.lengths import histogram_of
from vramplan.planner.memory.budget import MemoryBudget
from vramplan.planner.memory.timeline import Moment
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.plan import Plan
from vramplan.planner.resolve import given_for_method, resolve
from vramplan.planner.stages import later_plan
from vramplan.planner.units import GIB, MIB, parse_bytes
from vramplan.planner.workload import RowLengths
from vramplan.tui.bindings import STEPS
from vramplan.tui.choice import Choice, Compared, Entry, Knobs, MeasuredRows, Priced, SavedPlan
from vramplan.tui.remembered import Remembered

PATH = "runs/fake/plan.json"
PARAMS = {"fake/llama-70b": 70 * 10**9, "fake/llama-8b": 8 * 10**9, "fake/llama-1b": 10**9, "fake/odd[red]name": 10**6}
BYTES_PER_PARAM_X10 = {"full": 160, "lora": 21, "qlora": 7}


def summaries() -> tuple[ModelSummary, ...]:
    """The catalogue of the fake."""
    return tuple(
        ModelSummary(
            id=name, aliases=(), params=params, model_type="llama", license="mit", gated=False, context_length=8192
        )
        for name, params in PARAMS.items()
    )


def spec(name: str) -> ModelSpec:
    """A model of the fake's catalogue."""
    small = make_model_spec()
    provenance = small.provenance.model_copy(update={"location": name})
    return make_model_spec(repo_id=name, revision=None, provenance=provenance, context_length=8192)


def price(model: ModelSpec, given: dict[str, Any], device: Device | None) -> Priced:
    """Invented: bytes per parameter by method, plus 1 MiB a token and 16 MiB a rank."""
    resolved = resolve(given, model, device)
    setup, workload = resolved.setup, resolved.workload
    params = PARAMS.get(model.repo_id, 10**6)
    tokens = setup.micro_batch_size * workload.sequence_length * (1 if setup.gradient_checkpointing else 2)
    size = params * BYTES_PER_PARAM_X10[setup.method.kind] // 10 + tokens * MIB + GIB
    size += getattr(setup.method, "r", 0) * 16 * MIB + (GIB if setup.optimizer == "adamw_torch" else 0)
    candidate = make_candidate(
        model=model, setup=setup, workload=workload, device=device, budget=make_budget(process_bytes=size),
        total_params=params,
    )  # fmt: skip
    options = {option.name: option.value for option in resolved.options}
    return Priced(candidate=candidate, recipe=resolved.recipe, path=PATH, options=options)


def course(budget: MemoryBudget, layers: int = 4) -> tuple[Moment, ...]:
    """A step through some layers: up through the forward, down through the backward, the peak at its beginning."""
    peaks = {phase.name: phase.allocated_bytes for phase in budget.phases}
    lasting = peaks["load"]
    up = [lasting + (peaks["forward"] - lasting) * (layer + 1) // layers for layer in range(layers)]
    down = [lasting + (peaks["backward"] - lasting) * (layer + 1) // layers for layer in reversed(range(layers))]
    forward = [
        Moment(phase="forward", layer=n, allocated_bytes=size, lasting_bytes=lasting) for n, size in enumerate(up)
    ]
    backward = [
        Moment(phase="backward", layer=layers - 1 - n, allocated_bytes=size, lasting_bytes=lasting)
        for n, size in enumerate(down)
    ]
    last = Moment(phase="optimizer_step", layer=None, allocated_bytes=peaks["optimizer_step"], lasting_bytes=lasting)
    return (*forward, *backward, last)


def script(steps: int = 3) -> tuple[Event, ...]:
    """The events of a short run that ends well."""
    said: list[Event] = [
        Started(time=0.0, pid=4242, fingerprint="f" * 64, max_steps=steps),
        Progress(time=0.5, what="loading weights", fraction=0.5),
        Measured(time=1.0, phase="backward", allocated_bytes=2 * GIB, reserved_bytes=3 * GIB),
    ]
    said += [
        Step(
            time=1.0 + n, step=n, max_steps=steps, loss=3.0 / n, tokens=1024 * n, tokens_per_second=1500.0,
            eta_seconds=float(steps - n), allocated_bytes=2 * GIB, reserved_bytes=3 * GIB, process_bytes=4 * GIB,
        )
        for n in range(1, steps + 1)
    ]  # fmt: skip
    said += [
        Saved(time=9.0, step=steps, path="runs/fake/checkpoint-3", size_bytes=5 * MIB),
        Finished(time=9.5, report="runs/fake/report.json"),
    ]
    return tuple(said)


class FakeChat:
    """Satisfies ``vramplan.tui.core.Chat``: it says the prompt backwards, in pieces."""

    def __init__(self, folders: tuple[str, ...], error: Exception | None) -> None:
        self.voices = (*folders, "base")
        self.voice = folders[0]
        self.error = error
        self.closed = self.stopped = False

    def use(self, voice: str) -> None:
        self.voice = voice

    def clear(self) -> None:
        """Nothing is kept."""

    def answer(self, prompt: str) -> Iterator[str]:
        yield from (prompt[::-1][:2], prompt[::-1][2:])
        if self.error is not None:
            raise self.error

    def stop(self) -> None:
        self.stopped = True

    def close(self) -> None:
        self.closed = True


class FakeCore:
    """Satisfies ``vramplan.tui.core.Core``; the arguments are what the world is like."""

    def __init__(
        self,
        *,
        device: Device | None = None,
        events: Sequence[Event] | None = None,
        checks: Sequence[Check] | None = None,
        hold_after: int | None = None,
        errors: dict[str, Exception] | None = None,
        kept: Remembered | None = None,
        past: Sequence[PastRun] = (),
    ) -> None:
        self.device = make_device() if device is None else device
        self.events = tuple(script() if events is None else events)
        self.checks = tuple(checks or (Check(name="device", verdict="ok", found="RTX 4090, 23.00 GiB free"),))
        self.hold_after = hold_after
        self.past = tuple(past)
        self.errors = errors or {}
        self.priced: list[Knobs] = []
        self.saved: list[Choice] = []
        self.launched: list[tuple[SavedPlan, bool]] = []
        self.stopped = asyncio.Event()
        self.asked: asyncio.Queue[str] = asyncio.Queue()
        self.kept = Remembered(hinted=tuple(name for name, _ in STEPS)) if kept is None else kept
        self.merged: list[str] = []
        self.chats: list[FakeChat] = []
        self.exported: list[str] = []

    def _fail(self, what: str) -> None:
        if what in self.errors:
            raise self.errors[what]

    def default_device(self) -> tuple[Device | None, str]:
        self._fail("default_device")
        return self.device, f"{self.device.name} is here"

    def devices(self) -> tuple[Device, ...]:
        self._fail("devices")
        return (self.device, make_cpu())

    def profiles(self) -> tuple[DeviceProfile, ...]:
        return tuple(
            DeviceProfile(
                name=name, vendor="NVIDIA", kind="cuda", architecture=architecture, total_bytes=size * GIB,
                total_basis="a fake",
            )
            for name, architecture, size in (("H100 SXM 80 GB", "Hopper", 79), ("RTX 3060 12 GB", "Ampere", 12))
        )  # fmt: skip

    def named_device(self, text: str) -> tuple[Device | None, str]:
        for profile in self.profiles():
            if profile.name == text and profile.total_bytes is not None:
                device = Device(
                    source="profile", kind="cuda", name=text, total_bytes=profile.total_bytes, free_bytes=None,
                    profile=text, architecture=profile.architecture,
                )  # fmt: skip
                return device, f"{text}, from its data sheet"
        size = parse_bytes(text)
        return Device(source="memory", kind="cuda", name=text, total_bytes=size, free_bytes=None), "a bare size"

    def search_models(self, query: str, limit: int) -> tuple[ModelSummary, ...]:
        return tuple(each for each in summaries() if query.lower() in each.id.lower())[:limit]

    def resolve_model(self, text: str) -> ModelSpec:
        self._fail("resolve_model")
        if text not in PARAMS:
            raise UnknownModelError(f"no folder or catalogue model is called {text!r}", remedy="see: vramplan models")
        return spec(text)

    def search_hub(self, query: str) -> tuple[HubModel, ...]:
        self._fail("search_hub")
        return (HubModel(id=f"hub/{query}", downloads=12345, params=3 * 10**9, license="apache-2.0", gated=True),)

    def measure(self, choice: Choice) -> MeasuredRows | None:
        self._fail("measure")
        histogram = histogram_of([100] * 60 + [200] * 30 + [1000] * 10)
        lengths = RowLengths(longest_row=1000, quantiles=histogram.quantiles(), histogram=histogram)
        said = ("data     100 rows: half up to 100 tokens, the longest 1000",)
        return MeasuredRows(path=choice.knobs.data or "", num_rows=100, lengths=lengths, lines=said)

    def entries(self, folder: str, suffixes: tuple[str, ...]) -> tuple[Entry, ...]:
        names = (*(f"train{suffix}" for suffix in suffixes[:1]), "[red]odd/")
        return tuple(Entry(name=name, size="" if name.endswith("/") else "5.00 MiB") for name in names)

    def demo(self) -> SavedPlan:
        self._fail("demo")
        return SavedPlan(path="runs/demo/plan.json", plan=make_plan(model=spec("fake/llama-1b")))

    def read_plan(self, path: str) -> Plan:
        self._fail("read_plan")
        return make_plan(model=spec("fake/llama-1b"))

    def engines(self) -> tuple[tuple[str, str], ...]:
        return (("script", "a script"), ("slurm", "a batch job"))

    def export(self, saved: SavedPlan, engine: str) -> tuple[str, ...]:
        self._fail("export")
        self.exported.append(engine)
        return (f"runs/fake/export-{engine}/train.py",)

    def merge(self, folder: str) -> str:
        self._fail("merge")
        self.merged.append(folder)
        return f"{folder}/merged"

    def open_chat(self, folders: tuple[str, ...]) -> "FakeChat":
        self._fail("open_chat")
        self.chats.append(FakeChat(folders, self.errors.get("answer")))
        return self.chats[-1]

    def remembered(self) -> Remembered:
        return self.kept

    def remember(self, remembered: Remembered) -> None:
        self.kept = remembered

    def largest(self, device: Device, knobs: Knobs) -> Iterator[Largest]:
        given = knobs.setup
        return largest(
            summaries(),
            METHOD_NAMES,
            lambda name, method: price(spec(name), given_for_method(given, method), device).candidate,
            device.available_bytes,
        )

    def glance(self, choice: Choice) -> Glance:
        self._fail("glance")
        assert choice.model is not None
        budget = price(choice.model, choice.knobs.setup, choice.target).candidate.budget
        return Glance(
            budget=budget,
            course=course(budget),
            available_bytes=choice.target.available_bytes if choice.target else None,
        )

    def price(self, choice: Choice) -> Priced:
        self._fail("price")
        assert choice.model is not None
        self.priced.append(choice.knobs)
        return price(choice.model, choice.knobs.setup, choice.target)

    def compare(self, choice: Choice) -> tuple[Compared, ...]:
        self._fail("compare")
        model = choice.model
        assert model is not None
        rows = []
        for method in ("lora", "qlora", "full"):
            given = given_for_method(choice.knobs.setup, method)
            candidate = price(model, given, choice.target).candidate
            note = f"a fake reason for {method}"
            rows.append(Compared(candidate=candidate, notes=(note,), options={"method": method}))
        return (*rows, Compared(candidate=None, notes=("prefix: --method prefix is not priced yet",)))

    def save_plan(self, choice: Choice) -> SavedPlan:
        self._fail("save_plan")
        assert choice.model is not None
        self.saved.append(choice)
        priced = price(choice.model, choice.knobs.setup, choice.target)
        plan = make_plan(candidate=priced.candidate, model=choice.model, recipe=priced.recipe)
        return SavedPlan(path=PATH, plan=plan)

    def preflight(self, saved: SavedPlan) -> Preflight:
        self._fail("preflight")
        return Preflight(checks=self.checks)

    async def launch(self, saved: SavedPlan, *, resume: bool = False) -> AsyncGenerator[Event, None]:
        self._fail("launch")
        self.launched.append((saved, resume))
        for number, event in enumerate(self.events):
            if number == self.hold_after:
                async for said in self._held():
                    yield said
                return
            await asyncio.sleep(0)
            yield event

    def next_stage(self, saved: SavedPlan) -> SavedPlan | None:
        self._fail("next_stage")
        if not saved.plan.later_stages:
            return None
        return SavedPlan(path=saved.path.replace("plan.json", "stage-2/plan.json"), plan=later_plan(saved.plan, 2))

    async def _held(self) -> AsyncGenerator[Event, None]:
        """A run that stands at its first step and does what is asked of it until it is stopped."""
        saved = Saved(time=50.0, step=1, path="runs/fake/checkpoint-1", size_bytes=5 * MIB)
        answers: dict[str, tuple[Event, ...]] = {
            "checkpoint": (saved,),
            "pause": (saved, Paused(time=51.0, step=1)),
            "go_on": (Resumed(time=52.0, step=1, paused_seconds=60.0),),
        }
        while (word := await self.asked.get()) != "stop":
            for answer in answers[word]:
                yield answer
        yield Failed(time=99.0, message="stopped as asked", interrupted=True)

    def stop(self) -> None:
        self.stopped.set()
        self.asked.put_nowait("stop")

    def pause(self) -> None:
        self.asked.put_nowait("pause")

    def go_on(self) -> None:
        self.asked.put_nowait("go_on")

    def checkpoint(self) -> None:
        self.asked.put_nowait("checkpoint")

    def runs(self) -> tuple[tuple[PastRun, ...], tuple[str, ...]]:
        self._fail("runs")
        stopped = make_plan(model=spec("fake/llama-1b"))
        report = make_report(stopped, status="interrupted", steps=12, output_dir="runs/stopped")
        runs = [PastRun(folder="runs/stopped", plan=stopped, status="interrupted", report=report, checkpoint_step=10)]
        for saved, _ in self.launched:
            runs.insert(0, PastRun(folder="runs/fake", plan=saved.plan, status="done", report=make_report(saved.plan)))
        return (*self.past, *runs), ()
