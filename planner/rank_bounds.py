"""What a setup takes at least on each of several GPUs, and how long a step of it takes: ``bounds`` for ranks.

The first bound is the weights a rank holds; the second and the time come from the rank's price without the allocator.
"""

from collections.abc import Callable
from typing import NamedTuple

from vramplan.planner.bounds import Least
from vramplan.planner.cluster import Cluster, with_own_link
from vramplan.planner.device import Device, DeviceProfile, Route
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.memory import outside
from vramplan.planner.memory.groups import total_bytes
from vramplan.planner.memory.one_device import computing_setup
from vramplan.planner.memory.peaks import Standings
from vramplan.planner.memory.sharded import check_sharding, pricing_of
from vramplan.planner.memory.standing import Question
from vramplan.planner.memory.structure import program_key
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Program
from vramplan.planner.space import Cell
from vramplan.planner.stored_quantised import check_quantization
from vramplan.planner.throughput.pricing import price_time
from vramplan.planner.throughput.values import StepTime
from vramplan.planner.training_setup import TrainingSetup


class _Looked(NamedTuple):
    """What is kept of a cell's price."""

    least: Least
    time: StepTime | None


class RankBounds:
    """Bounds of one model's setups on several GPUs; called as ``bounds.Bounds`` is.

    Args:
        profile: of the GPUs, whose rates decide time; None: times are not known.
        figures: what nobody can count, as the candidates are priced with.
        cluster: what joins the GPUs.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: Device | None,
        programs: Callable[[ProgramKey], Program],
        *,
        profile: DeviceProfile | None = None,
        figures: outside.Figures = outside.PRIOR,
        cluster: Cluster | None = None,
    ) -> None:
        check_quantization(model)
        self._model, self._device, self._profile, self._programs = model, device, profile, programs
        self._route: Route = (device.route if device is not None else None) or "cuda"
        self._figures, self._cluster = figures, with_own_link(cluster or Cluster(), profile)
        self._standings = Standings(model)
        self._weights_bytes: dict[tuple[object, ...], int] = {}
        self._looked: dict[int, tuple[Cell, _Looked | NoProgramError | UnsupportedError]] = {}

    def static(self, cell: Cell) -> Least:
        """By the weights alone.

        Raises:
            UsageError: the setup does not suit the model.
        """
        setup = computing_setup(cell.setup)
        key = (setup.method, setup.precision)
        if key not in self._weights_bytes:
            self._weights_bytes[key] = total_bytes(self._standings.static(setup).weights, 1)
        held = _held_of(self._weights_bytes[key], cell.setup)
        return Least(held, held)

    def allocated(self, cell: Cell) -> Least:
        """By the allocated peak of a rank, loading apart.

        Raises:
            NoProgramError, UnsupportedError: it has no price.
        """
        return self._look(cell).least

    def time(self, cell: Cell) -> StepTime | None:
        """An optimizer step's time; None where the rates of the GPUs, or of what joins them, are not known.

        Raises:
            NoProgramError, UnsupportedError: it has no price.
        """
        return self._look(cell).time

    def _look(self, cell: Cell) -> _Looked:
        if id(cell) not in self._looked:
            try:
                self._looked[id(cell)] = cell, self._found(cell)
            except (NoProgramError, UnsupportedError) as error:
                self._looked[id(cell)] = cell, error
        found = self._looked[id(cell)][1]
        if isinstance(found, _Looked):
            return found
        raise found

    def _found(self, cell: Cell) -> _Looked:
        question = Question(self._model, cell.workload, cell.setup, self._route, self._device, self._figures)
        check_sharding(question)
        key = program_key(self._model, cell.workload, cell.setup, self._route, self._device)
        pricing = pricing_of(question, self._programs(key))
        budget = pricing.budget(with_tensors=False, with_allocator=False)
        time = price_time(pricing, self._profile, self._cluster)
        least = Least(budget.process_bytes, budget.high_process_bytes)
        return _Looked(least, time if isinstance(time, StepTime) else None)


def _held_of(weights_bytes: int, setup: TrainingSetup) -> int:
    """What of the weights a rank holds at least."""
    if setup.offload == "all":
        return 0
    return weights_bytes // setup.world_size if setup.sharding in ("fsdp", "zero3") else weights_bytes
