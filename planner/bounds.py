"""What a setup takes at least, and how long a step of it takes, far faster than its price.

Bytes are bounds: a process never takes less. The first needs no memory program: what is there during the optimizer
step, counted tensor by tensor; the second is the allocated peak. Either with the CUDA context, as if the allocator
wasted nothing. The time is the price's own.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from vramplan.planner.device import Device, DeviceProfile, Route
from vramplan.planner.dtypes import BYTES
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.memory import outside
from vramplan.planner.memory.optimizer import state_groups
from vramplan.planner.memory.peaks import AllocatedPeaks, Standings
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.standing import CUDA_QUANTUM_BYTES, Question, at_of
from vramplan.planner.memory.static import total_bytes
from vramplan.planner.memory.structure import program_key
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.programs.program import Program
from vramplan.planner.space import Cell
from vramplan.planner.stored_quantised import check_quantization
from vramplan.planner.throughput.flops import MicroStepWork, count_work
from vramplan.planner.throughput.optimizer_traffic import optimizer_traffic
from vramplan.planner.throughput.step_time import Counted, compute_dtype, rates_of, step_time
from vramplan.planner.throughput.traffic import MicroStepTraffic, TrafficForms
from vramplan.planner.throughput.values import StepTime

Programs = Callable[[ProgramKey, bool], Program]
"""A key's program, and whether it may be traced now; raises NoProgramError where there is none."""


class Least(NamedTuple):
    """The least a process takes: what we would expect, and the most we would bet on."""

    process_bytes: int
    high_process_bytes: int


class SetupBounds(Protocol):
    """What a search asks of bounds; on one device ``Bounds``, on several ``rank_bounds.RankBounds``."""

    def static(self, cell: Cell) -> Least:
        """The least by what lasts alone; raises UsageError."""

    def allocated(self, cell: Cell) -> Least:
        """The least by the allocated peak; raises NoProgramError, UnsupportedError."""

    def time(self, cell: Cell) -> StepTime | None:
        """An optimizer step's, None where it is not known; raises NoProgramError, UnsupportedError."""


@dataclass(frozen=True)
class _Regime:
    """What cells that share a memory program have in common."""

    program: Program
    question: Question
    peaks: AllocatedPeaks

    @cached_property
    def traffic(self) -> TrafficForms:
        """What a step writes; not asked for where setups do not fit."""
        return TrafficForms(Replay(self.program, at_of(self.question)))


class Bounds:
    """Bounds of one model's setups on one device.

    Args:
        traceable: which cells are worth a trace where their program is not here.
        profile: of the device, whose rates decide time; None: times are not known.
        figures: what nobody can count, as the candidates are priced with.
    """

    def __init__(
        self,
        model: ModelSpec,
        device: Device | None,
        programs: Programs,
        *,
        traceable: Callable[[Cell], bool] = lambda cell: False,
        profile: DeviceProfile | None = None,
        figures: outside.Figures = outside.PRIOR,
    ) -> None:
        check_quantization(model)
        self._model, self._device, self._profile = model, device, profile
        self._programs, self._traceable = programs, traceable
        self._route: Route = (device.route if device is not None else None) or "cuda"
        self._quantum = CUDA_QUANTUM_BYTES if self._route == "cuda" else 1
        self._figures = figures
        self._context = outside.context_bytes(self._route, figures)
        self._standings = Standings(model)
        self._static_bytes: dict[Hashable, int] = {}
        self._regimes: dict[Hashable, _Regime | NoProgramError | UnsupportedError] = {}
        self._peaks: dict[Hashable, AllocatedPeaks] = {}
        self._counted: dict[Hashable, tuple[MicroStepWork, MicroStepTraffic]] = {}

    @property
    def num_programs(self) -> int:
        """Memory programs that answered."""
        return sum(isinstance(regime, _Regime) for regime in self._regimes.values())

    def static(self, cell: Cell) -> Least:
        """Without a memory program.

        Raises:
            UsageError: the setup does not suit the model.
        """
        setup = cell.setup
        key = (setup.method, setup.precision, setup.optimizer)
        if key not in self._static_bytes:
            static = self._standings.static(setup)
            states = state_groups(setup.optimizer, static.trainable, self._route, loop=setup.loop)
            there = [*static.weights, *static.quantization_state, *static.adapter, *static.trainable, *states]
            self._static_bytes[key] = total_bytes(there, self._quantum)
        return self._least(self._static_bytes[key])

    def allocated(self, cell: Cell) -> Least:
        """By the allocated peak of a run, loading and evaluation apart.

        Raises:
            NoProgramError, UnsupportedError: no program answers.
        """
        setup, regime = cell.setup, self._regime(cell)
        own = (cell.regime, setup.optimizer, setup.gradient_accumulation_steps)
        peaks = self._peaks.get(own)
        if peaks is None:
            peaks = self._peaks[own] = regime.peaks.under(setup)
        rank: int | None = getattr(setup.method, "r", None)
        return self._least(peaks.at(setup.micro_batch_size, cell.workload.sequence_length, rank))

    def time(self, cell: Cell, profile: DeviceProfile | None = None) -> StepTime | None:
        """An optimizer step's time; None where the device's rates are not known.

        Args:
            profile: of another product with the device's kernels.

        Raises:
            NoProgramError, UnsupportedError: no program answers.
        """
        setup, profile = cell.setup, profile or self._profile
        if profile is None or self._device is None or self._device.mig:
            return None
        rates = rates_of(profile, setup)
        if isinstance(rates, str):
            return None
        alike = (cell.regime, setup.method, setup.micro_batch_size, setup.gradient_accumulation_steps > 1)
        if alike not in self._counted:
            self._counted[alike] = self._count(cell)
        work, traffic = self._counted[alike]
        tokens = cell.workload.sequence_length + (cell.workload.target_length or 0)
        counted = Counted(
            work=work,
            traffic=traffic,
            optimizer=optimizer_traffic(setup, self._standings.static(setup).trainable, self._route),
            micro_batches=setup.gradient_accumulation_steps,
            tokens_per_step=setup.micro_batch_size * setup.gradient_accumulation_steps * tokens,
        )
        return step_time(counted, rates)

    def _count(self, cell: Cell) -> tuple[MicroStepWork, MicroStepTraffic]:
        element_bytes = BYTES[compute_dtype(cell.setup)]
        work = count_work(self._model, cell.workload, cell.setup, element_bytes=element_bytes)
        regime = self._regime(cell)
        return work, regime.traffic.at(Replay(regime.program, at_of(self._question(cell))))

    def _regime(self, cell: Cell) -> _Regime:
        key = cell.regime
        if key not in self._regimes:
            self._regimes[key] = self._found(cell)
        found = self._regimes[key]
        if isinstance(found, _Regime):
            return found
        raise found

    def _found(self, cell: Cell) -> _Regime | NoProgramError | UnsupportedError:
        try:
            key = program_key(self._model, cell.workload, cell.setup, self._route, self._device)
            program = self._programs(key, self._traceable(cell))
        except (NoProgramError, UnsupportedError) as error:
            return error
        question = self._question(cell)
        return _Regime(program, question, AllocatedPeaks(question, program, self._standings))

    def _question(self, cell: Cell) -> Question:
        return Question(self._model, cell.workload, cell.setup, self._route, self._device, self._figures)

    def _least(self, size_bytes: int) -> Least:
        return Least(size_bytes + self._context[0], size_bytes + self._context[1])
