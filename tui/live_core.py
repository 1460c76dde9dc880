"""The real core: each method is one call of the planner or the executor, imported when it is first needed."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

from vramplan.executor.events import Event
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import UsageError
from vramplan.planner.largest import Largest
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.objectives import Objectives
from vramplan.planner.throughput.values import RunCost
from vramplan.planner.units import format_bytes, parse_bytes
from vramplan.tui.bindings import key_of
from vramplan.tui.choice import Choice, Compared, Knobs, MeasuredRows, Priced, SavedPlan
from vramplan.tui.live_finished import LiveFinished
from vramplan.tui.remembered import Remembered, read_remembered, write_remembered

if TYPE_CHECKING:
    from vramplan.executor.launcher import Run
    from vramplan.executor.preflight import Preflight
    from vramplan.planner.adapters.hub_search import HubModel
    from vramplan.planner.adapters.models import ModelSummary
    from vramplan.planner.cli.glance import Glance
    from vramplan.planner.cli.subject import Subject
    from vramplan.planner.recommendation import Recommendation
    from vramplan.tui.live_stages import Stage

READING = ("data", "task", "columns", "skip_bad_rows", "chat_template", "num_labels", "eval_fraction")
"""Options that decide how the training file is read and how long its rows are."""
LINE_WIDTH = 4096
"""What the command line says of data, unfolded: the screen folds it."""


class LiveCore(LiveFinished):
    """Satisfies ``vramplan.tui.core.Core``."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._last_subject: tuple[object, Subject] | None = None
        self._reading = Lock()

    def default_device(self) -> tuple[Device | None, str]:
        from vramplan.planner.adapters.devices import NO_ACCELERATOR, resolve_device

        device, note = resolve_device("auto", memory_bytes=None, reserve_bytes=0)
        return device, note.replace(NO_ACCELERATOR, "figures without a verdict; d picks one")

    def devices(self) -> tuple[Device, ...]:
        from vramplan.planner.adapters.devices import read_cpu, read_devices

        return (*read_devices(), read_cpu())

    def profiles(self) -> tuple[DeviceProfile, ...]:
        from vramplan.planner.adapters.profiles import load_profiles

        return load_profiles()

    def named_device(self, text: str) -> tuple[Device | None, str]:
        from vramplan.planner.adapters.devices import resolve_device

        try:
            memory_bytes: int | None = parse_bytes(text)
        except ValueError:
            memory_bytes = None
        return resolve_device("auto" if memory_bytes else text, memory_bytes=memory_bytes, reserve_bytes=0)

    def search_models(self, query: str, limit: int) -> "tuple[ModelSummary, ...]":
        from vramplan.planner.adapters.models import search_models

        return search_models(query, limit)

    def search_hub(self, query: str) -> "tuple[HubModel, ...]":
        from vramplan.planner.adapters.hub_search import search_hub

        return search_hub(query)

    def measure(self, choice: Choice) -> MeasuredRows | None:
        from vramplan.planner.cli.data_text import data_lines
        from vramplan.tui.live_stages import first_setup

        subject = self._subject(choice)
        if subject.data is None:
            return None
        length = first_setup(subject, choice.knobs.setup).workload.sequence_length
        lines = data_lines(subject, length, completion_only=True, width=LINE_WIDTH)
        return MeasuredRows(
            path=subject.data.planned.path, num_rows=subject.data.num_rows, lengths=subject.rows, lines=tuple(lines)
        )

    def resolve_model(self, text: str) -> ModelSpec:
        from vramplan.planner.adapters.models import resolve_model
        from vramplan.planner.adapters.tasks import model_for_task

        return model_for_task(resolve_model(text))

    def largest(self, device: Device, knobs: Knobs) -> Iterator[Largest]:
        from vramplan.planner.cli.largest import largest_on

        return largest_on(device, knobs.setup)

    def glance(self, choice: Choice) -> "Glance":
        from vramplan.planner.cli.glance import glance
        from vramplan.tui.live_stages import first_setup

        subject = self._subject(choice)
        return glance(subject, first_setup(subject, choice.knobs.setup))

    def price(self, choice: Choice) -> Priced:
        from vramplan.planner.cli.timing import cost_of
        from vramplan.tui.live_stages import in_words, larger, priced_stages

        subject = self._subject(choice)
        stages = priced_stages(subject, choice.knobs.setup)
        resolved, candidate = larger(stages)
        return Priced(
            candidate=candidate,
            recipe=resolved.recipe,
            path=str(_free_path(subject.model, stages)),
            cost=cost_of(candidate, max_steps=resolved.recipe.max_steps) if len(stages) == 1 else RunCost(),
            options={option.name: option.value for option in resolved.options},
            stages=in_words(stages),
        )

    def compare(self, choice: Choice) -> tuple[Compared, ...]:
        from vramplan.planner.cli.subject import bounds_of, price
        from vramplan.planner.recommend import recommend

        subject, given = self._subject(choice), choice.knobs.setup
        found = recommend(
            subject.model,
            subject.device,
            given,
            lambda resolved: price(subject, resolved, with_tensors=False),
            num_examples=subject.num_examples,
            rows=subject.rows,
            objectives=_objectives(choice.knobs),
            bounds=bounds_of(subject, given),
        )
        return tuple(_rows(found, choice.knobs.max_steps))

    def save_plan(self, choice: Choice) -> SavedPlan:
        from vramplan.planner.adapters.plan_files import write_plan
        from vramplan.planner.cli.plan import frozen
        from vramplan.planner.cli.two_stage import freeze_stages
        from vramplan.tui.live_stages import priced_stages

        self._last_subject = None  # the training file may have changed since it was read for pricing
        subject = self._subject(choice)
        stages, output = priced_stages(subject, choice.knobs.setup), choice.knobs.setup.get("output_dir")
        path = _free_path(subject.model, stages)
        if len(stages) == 1:
            plan = frozen(subject, *stages[0], path, output_given=output is not None)
        else:
            plan = freeze_stages(stages, subject, path, output)
        write_plan(plan, path)
        return SavedPlan(path=str(path), plan=plan)

    def preflight(self, saved: SavedPlan) -> "Preflight":
        from vramplan.executor.cli import check
        from vramplan.executor.here import device_here
        from vramplan.executor.stages import check_later

        path = Path(saved.path)
        check_later(saved.plan, path.parent, [])
        return check(saved.plan, path, device_here(saved.plan), allow=[])

    async def launch(self, saved: SavedPlan, *, resume: bool = False) -> AsyncGenerator[Event, None]:
        from vramplan.executor.here import device_here
        from vramplan.executor.launcher import Run
        from vramplan.executor.options import must_verify

        path, device = Path(saved.path), device_here(saved.plan)
        verify = saved.tried_first and not resume and must_verify(saved.plan, path, device)
        self._run = Run(path, device=device, verify=verify, resume=resume)
        events = self._run.aevents()
        try:
            async for event in events:
                yield event
        finally:
            await events.aclose()
            self._run = None

    def stop(self) -> None:
        if self._run is not None:
            self._run.stop()

    def pause(self) -> None:
        if self._run is not None:
            self._run.pause()

    def go_on(self) -> None:
        if self._run is not None:
            self._run.go_on()

    def checkpoint(self) -> None:
        if self._run is not None:
            self._run.checkpoint()

    def remembered(self) -> Remembered:
        return read_remembered()

    def remember(self, remembered: Remembered) -> None:
        write_remembered(remembered)

    def _subject(self, choice: Choice) -> "Subject":
        """Model, device and training file; the file is read again only when another is named."""
        from argparse import Namespace

        from vramplan.planner.adapters.clusters import make_cluster
        from vramplan.planner.adapters.tasks import model_for_task
        from vramplan.planner.cli.subject import read_training_data, subject_of
        from vramplan.planner.tasks import default_task

        if choice.model is None:
            raise UsageError("no model is chosen", remedy=f"choose one ({key_of('model')})")
        given, knobs = choice.knobs.setup, choice.knobs
        read = {name: given.get(name) for name in READING}
        asked = (choice.model, choice.target, knobs.interconnect, knobs.host_memory, read)
        with self._reading:  # two screens may want the same file counted
            if self._last_subject is None or self._last_subject[0] != asked:
                task = knobs.task or default_task(choice.model)
                data = read_training_data(Namespace(**read), task) if knobs.data else None
                classes = len(data.planned.labels) if data else 0
                model = model_for_task(choice.model, task, classes or given.get("num_labels"))
                found = subject_of(model, choice.target, data=data, chat_template=given.get("chat_template"))
                if knobs.interconnect is not None or knobs.host_memory is not None:
                    host = None if knobs.host_memory is None else parse_bytes(knobs.host_memory)
                    found = found._replace(cluster=make_cluster(knobs.interconnect, host))
                self._last_subject = asked, found
            return self._last_subject[1]


def _objectives(knobs: Knobs) -> Objectives:
    from vramplan.planner.cli.recommend import priorities

    matters = knobs.matters
    return Objectives(**matters | ({"prefer": priorities(matters["prefer"])} if "prefer" in matters else {}))


def _free_path(model: ModelSpec, stages: "list[Stage]") -> Path:
    """``runs/<slug>/plan.json``, in the first numbered folder that is not taken: no earlier run is touched."""
    from vramplan.planner.resolve import slug
    from vramplan.planner.two_stage import TWO_STAGE

    name = slug(model, stages[0][0].setup.method) + ("" if len(stages) == 1 else f"-{TWO_STAGE}")
    folder, number = Path("runs", name), 1
    while folder.exists():
        number += 1
        folder = Path("runs", f"{name}-{number}")
    return folder / "plan.json"


def _rows(found: "Recommendation", max_steps: int | None) -> Iterator[Compared]:
    """The best of each method, then what else is worth a thought, then what does not fit, then what has no price."""
    from vramplan.planner.cli.timing import cost_of

    def row(candidate: Candidate, options: dict[str, Any], *notes: str) -> Compared:
        cost = cost_of(candidate, max_steps=max_steps)
        return Compared(candidate=candidate, notes=notes, cost=cost, options=options)

    for candidate, options, reasons in zip(found.ranked, found.options, found.reasons, strict=True):
        yield row(candidate, options, *reasons)
    for each in found.front:
        if each.candidate not in found.ranked:
            yield row(each.candidate, each.options, "no other setup beats it in memory, time and evidence together")
    for refused in found.rejected:
        would_fit = [f"would fit: {refused.would_fit}"] if refused.would_fit else []
        method = {"method": refused.candidate.setup.method.kind}
        yield row(refused.candidate, method, f"lacks {format_bytes(refused.lacks_bytes)}", *would_fit)
    for reason in (*found.ruled_out, *found.unpriced):
        yield Compared(candidate=None, notes=(reason,))
