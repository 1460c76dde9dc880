"""What is on the device while nothing goes through the model: all of a price that needs no memory program replayed."""

from dataclasses import dataclass
from functools import cached_property

from vramplan.planner.device import Device, Route
from vramplan.planner.memory import loop, optimizer, outside, phases
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.memory.groups import Group, total_bytes
from vramplan.planner.memory.replay import At, Replay
from vramplan.planner.memory.static import StaticMemory, count_static
from vramplan.planner.memory.structure import layer_kinds, replay_values
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

CUDA_QUANTUM_BYTES = 512
"""kMinBlockSize, c10/core/AllocatorConfig.h. The CPU's allocator gives what is asked."""
ORDER: tuple[Component, ...] = (
    "weights",
    "quantization_state",
    "adapter",
    "gradients",
    "optimizer",
    "activations",
    "loss",
    "temporaries",
    "buffers",
    "batch",
    "gathered",
    "communication",
    "workspace",
)


@dataclass(frozen=True)
class Question:
    """What is to be priced."""

    model: ModelSpec
    workload: Workload
    setup: TrainingSetup
    route: Route
    device: Device | None = None
    figures: outside.Figures = outside.PRIOR

    @property
    def quantum_bytes(self) -> int:
        return CUDA_QUANTUM_BYTES if self.route == "cuda" else 1

    @property
    def accumulating(self) -> bool:
        return self.setup.gradient_accumulation_steps > 1


def at_of(question: Question) -> At:
    """The sizes at which a memory program answers a question."""
    model, setup = question.model, question.setup
    values = replay_values(model, question.workload, setup)
    return At(values, layer_kinds(model, setup.method), question.quantum_bytes, question.accumulating)


def buffer_groups(replay: Replay) -> list[Group]:
    """What a memory program's model has beside parameters: rotary frequencies, masks."""
    return [Group(replay.sizes[size], 1, 1) for size, _ in replay.program.buffers]


class Standing:
    """The tensors of one question that outlive the passes through the model.

    Args:
        buffers: the memory program's.
        static: the question's, where that is counted already.
    """

    def __init__(self, question: Question, buffers: list[Group], static: StaticMemory | None = None) -> None:
        self.question, self.buffers = question, buffers
        self.static = count_static(question.model, question.setup) if static is None else static
        setup, trainable = question.setup, self.static.trainable
        self.states = optimizer.state_groups(setup.optimizer, trainable, question.route, loop=setup.loop)
        self.step_peak = optimizer.step_peak_bytes(
            setup.optimizer, trainable, question.route, question.quantum_bytes, loop=setup.loop
        )
        self.batch = loop.batch_groups(question.model, question.setup, question.workload)

    @property
    def workspaces_bytes(self) -> int:
        """cuBLAS's workspaces: allocated in the first step, kept ever after."""
        question = self.question
        if question.route == "cpu":
            return 0
        return outside.WORKSPACES * outside.workspace_bytes(question.device, question.figures)

    @cached_property
    def _lasting(self) -> dict[Component, int]:
        static, quantum = self.static, self.question.quantum_bytes
        return {
            "weights": total_bytes(static.weights, quantum),
            "quantization_state": total_bytes(static.quantization_state, quantum),
            "adapter": total_bytes(static.adapter, quantum),
            "gradients": total_bytes(static.trainable, quantum),
            "optimizer": total_bytes(self.states, quantum),
            "buffers": total_bytes(self.buffers, quantum),
            "batch": total_bytes(self.batch, quantum),
            "workspace": self.workspaces_bytes,
        }

    def base(self, *, gradients: bool) -> dict[Component, int]:
        """Bytes there throughout the step; with the gradients where they are kept."""
        return self._lasting | ({} if gradients else {"gradients": 0})

    def still_parts(self) -> dict[PhaseName, dict[Component, int]]:
        """Every phase's bytes by component in which nothing goes through the model."""
        model, setup, quantum = self.question.model, self.question.setup, self.question.quantum_bytes
        loaded = self.base(gradients=False)
        step = self._between_steps(gradients=True)
        step["temporaries"] = step.get("temporaries", 0) + self.step_peak
        between = self._between_steps(gradients=loop.keeps_gradients(setup))
        found: dict[PhaseName, dict[Component, int]] = {
            "load": phases.loading(loaded, model, setup, quantum),
            "optimizer_step": step,
            "save": phases.saving(between, model, setup),
            "resume": phases.resuming(loaded, loaded["adapter"]),
        }
        merged = phases.merging(loaded, model, setup, quantum)
        return found if merged is None else found | {"merge": merged}

    def _between_steps(self, *, gradients: bool) -> dict[Component, int]:
        """Bytes there when no micro batch is under way: what the loop's names hold beside the base."""
        base, held = self.base(gradients=gradients), self.held_parts()
        return {name: base.get(name, 0) + held.get(name, 0) for name in ORDER}

    def held_parts(self) -> dict[Component, int]:
        """What the loop's names hold when a step is over, gradients apart, as far as it is known here."""
        return {}
