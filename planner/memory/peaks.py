"""The allocated peak of a setup at many batches, sequence lengths and ranks, thousands of times a second.

What lasts through a step is counted once a rank, the micro step is a few sums of products (``step_forms``), and the
batch is counted at each point. Equal to ``Pricing``'s phases to the byte.
"""

from collections.abc import Hashable
from copy import copy
from dataclasses import replace
from typing import NamedTuple

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory import loop
from vramplan.planner.memory.groups import Group, total_bytes
from vramplan.planner.memory.price import Pricing, Question
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.standing import Standing, at_of, buffer_groups
from vramplan.planner.memory.static import StaticMemory, count_static
from vramplan.planner.memory.step_forms import PeakForms
from vramplan.planner.memory.structure import replay_values
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.program import Program
from vramplan.planner.training_setup import TrainingSetup


class Lasting(NamedTuple):
    """The bytes that last, batches apart."""

    micro_step_bytes: int
    """Beneath the forward and backward."""
    still_bytes: int
    """At the highest of the phases between, where the step's batches are on the device."""
    unbatched_bytes: int
    """At the highest of the phases without."""


class Standings:
    """What lasts under the setups of one model on one device, counted once for those that differ in what passes alone:
    checkpointing, loss, padding and batch."""

    def __init__(self, model: ModelSpec) -> None:
        self._model = model
        self._static: dict[Hashable, StaticMemory] = {}
        self._lasting: dict[Hashable, Lasting] = {}

    def static(self, setup: TrainingSetup) -> StaticMemory:
        """Its tensors before the step.

        Raises:
            UsageError: the setup does not suit the model.
        """
        key = (setup.method, setup.precision)
        if key not in self._static:
            self._static[key] = count_static(self._model, setup)
        return self._static[key]

    def lasting(self, question: Question, buffers: tuple[Group, ...]) -> Lasting:
        """Of a question about the model, whose program has these buffers."""
        setup = question.setup
        key = (setup.method, setup.precision, setup.optimizer, question.accumulating, buffers)
        found = self._lasting.get(key)
        if found is None:
            standing = Standing(question, list(buffers), self.static(setup))
            base = standing.base(gradients=question.accumulating)
            still = [parts for phase, parts in standing.still_parts().items() if phase != "load"]
            found = self._lasting[key] = Lasting(
                sum(base.values()) - base["batch"],
                max(sum(parts.values()) - parts["batch"] for parts in still if parts.get("batch")),
                max((sum(parts.values()) for parts in still if not parts.get("batch")), default=0),
            )
        return found


class AllocatedPeaks:
    """One question's setup, where micro batch, sequence length and rank are open.

    Args:
        question: any point; its gradient accumulation and share of labels hold for all.
        program: the question's. Every point must be of its regime, as ``program_key`` tells: a micro batch of one, and
            a sequence that reaches a sliding window, have programs of their own.
        standings: shared by several of these.
    """

    def __init__(self, question: Question, program: Program, standings: Standings | None = None) -> None:
        if question.setup.sharding != "none":
            raise UnsupportedError(
                f"many setups with --sharding {question.setup.sharding} are not searched yet",
                remedy="price one with: vramplan estimate MODEL --method NAME",
            )
        self._question = question
        replay = Replay(program, at_of(question))
        self._forms, self._buffers = PeakForms(replay), tuple(buffer_groups(replay))
        self._standings = standings or Standings(question.model)
        self._lasting: dict[int | None, tuple[TrainingSetup, Lasting]] = {}

    def under(self, setup: TrainingSetup) -> "AllocatedPeaks":
        """The same forms under another setup of the regime: another optimizer, or another accumulation."""
        other = copy(self)
        other._question, other._lasting = replace(self._question, setup=setup), {}
        return other

    def at(self, micro_batch_size: int, sequence_length: int, rank: int | None = None) -> int:
        """Bytes allocated at the highest point of a run, loading apart; ``rank`` None: the question's own.

        Raises:
            UsageError: the setup does not suit the model.
        """
        setup, lasting = self._lasting.get(rank) or self._last(rank)
        setup = setup.model_copy(update={"micro_batch_size": micro_batch_size})
        workload = self._question.workload.model_copy(update={"sequence_length": sequence_length})
        values = replay_values(self._question.model, workload, setup)
        batch = total_bytes(loop.batch_groups(self._question.model, setup, workload), self._question.quantum_bytes)
        held = self._forms.held_bytes(values) if setup.loop == "plain" else 0  # see ``loop.held_parts``
        highest = max(lasting.micro_step_bytes + self._forms.peak_bytes(values), lasting.still_bytes + held)
        return max(batch + highest, lasting.unbatched_bytes)

    def _last(self, rank: int | None) -> tuple[TrainingSetup, Lasting]:
        setup = self._question.setup
        if rank is not None:
            setup = setup.model_copy(update={"method": setup.method.model_copy(update={"r": rank})})
        lasting = self._standings.lasting(replace(self._question, setup=setup), self._buffers)
        return self._lasting.setdefault(rank, (setup, lasting))


def allocated_peak_bytes(question: Question, program: Program) -> int:
    """The allocated peak of one question, replayed: for a single point, where compiling costs more."""
    phases = Pricing(question, program).phase_parts()
    return max(sum(parts.values()) for phase, parts in phases.items() if phase != "load")
