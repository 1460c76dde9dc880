"""The real core: each method is one call of the planner or the executor, imported when it is first needed."""

from collections.abc import AsyncGenerator, Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramplan.executor.events import Event
from vramplan.planner.candidate import Candidate, Recommendation
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import UsageError
from vramplan.planner.largest import Largest, largest
from vramplan.planner.methods import METHOD_NAMES
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.units import format_bytes, parse_bytes
from vramplan.tui.choice import Choice, Compared, Knobs, Priced, SavedPlan

if TYPE_CHECKING:
    from vramplan.executor.launcher import Run
    from vramplan.executor.preflight import Preflight
    from vramplan.planner.adapters.models import ModelSummary
    from vramplan.planner.cli.subject import Subject
    from vramplan.planner.explain import Explanation
    from vramplan.planner.resolve import Resolved

WHOLE_CATALOGUE = 10**6


class LiveCore:
    """Satisfies ``vramplan.tui.core.Core``."""

    def __init__(self) -> None:
        self._run: Run | None = None

    def default_device(self) -> tuple[Device | None, str]:
        from vramplan.planner.adapters.devices import resolve_device

        return resolve_device("auto", memory_bytes=None, reserve_bytes=0)

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

    def resolve_model(self, text: str) -> ModelSpec:
        from vramplan.planner.adapters.models import resolve_model

        return resolve_model(text)

    def largest(self, device: Device, knobs: Knobs) -> Iterator[Largest]:
        from vramplan.planner.cli.subject import Subject, price
        from vramplan.planner.resolve import given_for_method, resolve

        # The same models are asked for once per method; the Hub is not: every one is in the catalogue.
        spec = cache(self.resolve_model)

        def priced(model: str, method: str) -> Candidate:
            subject = Subject(model=spec(model), device=device, device_note="", device_named=True, data=None)
            resolved = resolve(given_for_method(_given(knobs), method), subject.model, device)
            return price(subject, resolved, with_tensors=False, may_trace=False)

        return largest(self.search_models("", WHOLE_CATALOGUE), METHOD_NAMES, priced)

    def price(self, choice: Choice) -> Priced:
        from vramplan.planner.cli.subject import price

        subject, resolved = _resolved(choice)
        path = _free_path(subject.model, resolved)
        return Priced(candidate=price(subject, resolved), recipe=resolved.recipe, path=str(path))

    def compare(self, choice: Choice) -> tuple[Compared, ...]:
        from vramplan.planner.cli.subject import price
        from vramplan.planner.recommend import recommend

        subject, given = _subject(choice), _given(choice.knobs)
        examples = subject.num_examples
        return _rows(
            recommend(subject.model, subject.device, given, lambda r: price(subject, r), num_examples=examples)
        )

    def save_plan(self, choice: Choice) -> SavedPlan:
        from vramplan.planner.adapters.plan_files import write_plan
        from vramplan.planner.cli.plan import frozen
        from vramplan.planner.cli.subject import price

        subject, resolved = _resolved(choice)
        path = _free_path(subject.model, resolved)
        plan = frozen(subject, resolved, price(subject, resolved), path, output_given=False)
        write_plan(plan, path)
        return SavedPlan(path=str(path), plan=plan)

    def preflight(self, saved: SavedPlan) -> "Preflight":
        from vramplan.executor.cli import check
        from vramplan.executor.here import device_here

        return check(saved.plan, Path(saved.path), device_here(saved.plan), allow=[])

    async def launch(self, saved: SavedPlan) -> AsyncGenerator[Event, None]:
        from vramplan.executor.here import device_here
        from vramplan.executor.launcher import Run

        self._run = Run(Path(saved.path), device=device_here(saved.plan))
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

    def explain(self, saved: SavedPlan, report_path: str) -> "Explanation":
        from vramplan.planner.adapters.plan_files import read_report
        from vramplan.planner.explain import explain

        return explain(saved.plan, read_report(Path(report_path)))


def _given(knobs: Knobs) -> dict[str, Any]:
    return knobs.model_dump(exclude_none=True)


def _subject(choice: Choice) -> "Subject":
    from vramplan.planner.adapters.datasets import read_data_file
    from vramplan.planner.cli.subject import Subject

    if choice.model is None:
        raise UsageError("no model is chosen", remedy="choose one on screen 1")
    data = read_data_file(Path(choice.knobs.data)) if choice.knobs.data else None
    return Subject(model=choice.model, device=choice.device, device_note="", device_named=True, data=data)


def _resolved(choice: Choice) -> "tuple[Subject, Resolved]":
    from vramplan.planner.resolve import resolve

    subject = _subject(choice)
    given = _given(choice.knobs)
    return subject, resolve(given, subject.model, subject.device, num_examples=subject.num_examples)


def _free_path(model: ModelSpec, resolved: "Resolved") -> Path:
    """``runs/<slug>/plan.json``, in the first numbered folder that is not taken: no earlier run is touched."""
    from vramplan.planner.resolve import slug

    name = slug(model, resolved.setup.method)
    folder, number = Path("runs", name), 1
    while folder.exists():
        number += 1
        folder = Path("runs", f"{name}-{number}")
    return folder / "plan.json"


def _rows(found: Recommendation) -> tuple[Compared, ...]:
    ranked = [
        Compared(candidate=candidate, notes=reasons)
        for candidate, reasons in zip(found.ranked, found.reasons, strict=True)
    ]
    rejected = [
        Compared(
            candidate=each.candidate,
            notes=(
                f"lacks {format_bytes(each.lacks_bytes)}",
                *([f"would fit: {each.would_fit}"] if each.would_fit else []),
            ),
        )
        for each in found.rejected
    ]
    return (*ranked, *rejected, *(Compared(candidate=None, notes=(reason,)) for reason in found.unpriced))
