"""The real core: each method is one call of the planner or the executor, imported when it is first needed."""

from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vramplan.executor.events import Event
from vramplan.planner.recommendation import Recommendation
from vramplan.planner.device import Device, DeviceProfile
from vramplan.planner.errors import UsageError
from vramplan.planner.largest import Largest
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


class LiveCore:
    """Satisfies ``vramplan.tui.core.Core``."""

    def __init__(self) -> None:
        self._run: Run | None = None
        self._last_subject: tuple[object, Subject] | None = None

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
        from vramplan.planner.adapters.tasks import model_for_task

        return model_for_task(resolve_model(text))

    def largest(self, device: Device, knobs: Knobs) -> Iterator[Largest]:
        from vramplan.planner.cli.largest import largest_on

        return largest_on(device, _given(knobs))

    def price(self, choice: Choice) -> Priced:
        from vramplan.planner.cli.subject import complete, price

        subject = self._subject(choice)
        resolved = complete(subject, _given(choice.knobs))
        path = _free_path(subject.model, resolved)
        return Priced(candidate=price(subject, resolved), recipe=resolved.recipe, path=str(path))

    def compare(self, choice: Choice) -> tuple[Compared, ...]:
        from vramplan.planner.cli.subject import price
        from vramplan.planner.recommend import recommend

        subject = self._subject(choice)
        found = recommend(
            subject.model,
            subject.device,
            _given(choice.knobs),
            lambda resolved: price(subject, resolved, with_tensors=False),
            num_examples=subject.num_examples,
            rows=subject.rows,
        )
        return _rows(found)

    def save_plan(self, choice: Choice) -> SavedPlan:
        from vramplan.planner.adapters.plan_files import write_plan
        from vramplan.planner.cli.plan import frozen
        from vramplan.planner.cli.subject import complete, price

        self._last_subject = None  # the training file may have changed since it was read for pricing
        subject = self._subject(choice)
        resolved = complete(subject, _given(choice.knobs))
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
        from vramplan.executor.options import must_verify

        path, device = Path(saved.path), device_here(saved.plan)
        self._run = Run(path, device=device, verify=must_verify(saved.plan, path, device))
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

    def _subject(self, choice: Choice) -> "Subject":
        """Model, device and training file; the file is read again only when another is named."""
        from vramplan.planner.cli.subject import subject_of

        if choice.model is None:
            raise UsageError("no model is chosen", remedy="choose one on screen 1")
        asked = (choice.model, choice.device, choice.knobs.data)
        if self._last_subject is None or self._last_subject[0] != asked:
            self._last_subject = asked, subject_of(choice.model, choice.device, data=choice.knobs.data)
        return self._last_subject[1]


def _given(knobs: Knobs) -> dict[str, Any]:
    return knobs.model_dump(exclude_none=True)


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
