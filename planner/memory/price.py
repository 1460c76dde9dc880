"""Assemble a MemoryBudget: static tensors counted, dynamic ones replayed, the allocator replayed, the rest bounded."""

from dataclasses import dataclass, replace
from math import ceil

from vramplan.planner.device import Device, Route
from vramplan.planner.memory import loop, optimizer, outside, phases
from vramplan.planner.memory.alloc_conf import parse_alloc_conf
from vramplan.planner.memory.because import reasons
from vramplan.planner.memory.budget import (
    STATIC_COMPONENTS,
    BudgetLine,
    Component,
    MemoryBudget,
    PhaseBudget,
    PhaseName,
)
from vramplan.planner.memory.expand import live_at_peak
from vramplan.planner.memory.lengths import UNKNOWN_BATCHES, record_lengths, step_lengths
from vramplan.planner.memory.replay import At, Replay, Replayed
from vramplan.planner.memory.reserved import reserved_bytes
from vramplan.planner.memory.segments import OutOfDeviceMemory
from vramplan.planner.memory.static import Group, StaticMemory, count_static, total_bytes
from vramplan.planner.memory.structure import layer_kinds, replay_values
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.program import Program
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

CUDA_QUANTUM_BYTES = 512
"""kMinBlockSize, c10/core/AllocatorConfig.h. The CPU's allocator gives what is asked."""
LONGEST_STEPS = 2
"""Reserved memory is flat from the second step on; optimizer states are born at the end of the first."""
ORDERS = range(9)
"""Seeds of the orders in which a run that draws its batches by chance is replayed."""
STEP_PHASES: tuple[PhaseName, ...] = ("forward", "loss", "backward")
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


def is_exact(component: Component) -> bool:
    """Counted to the byte: all but what lives inside a step."""
    return component in (*STATIC_COMPONENTS, "batch", "workspace")


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


class Pricing:
    """One question answered with one program; ``budget()`` is the answer. ``replayed``: where that is known already."""

    def __init__(self, question: Question, program: Program, replayed: Replayed | None = None) -> None:
        self.question = question
        quantum = question.quantum_bytes
        self.static: StaticMemory = count_static(question.model, question.setup)
        setup, trainable = question.setup, self.static.trainable
        self.states = optimizer.state_groups(setup.optimizer, trainable, question.route, loop=setup.loop)
        managed = optimizer.managed_groups(setup.optimizer, trainable, question.route, loop=setup.loop)
        self.managed_bytes = total_bytes(managed, quantum)
        self.step_peak = optimizer.step_peak_bytes(setup.optimizer, trainable, question.route, quantum, loop=setup.loop)
        self.replay = Replay(
            program,
            At(
                replay_values(question.model, question.workload, question.setup),
                layer_kinds(question.model, question.setup.method),
                quantum,
                question.accumulating,
            ),
        )
        self.replayed = self.replay.run() if replayed is None else replayed
        self.buffers = [Group(self.replay.sizes[size], 1, 1) for size, _ in program.buffers]
        self.batch = loop.batch_groups(question.model, question.setup, question.workload)
        self.because = reasons(question.model, question.setup, self.static, self.managed_bytes)

    @property
    def workspaces_bytes(self) -> int:
        """cuBLAS's workspaces: allocated in the first step, kept ever after."""
        question = self.question
        if question.route == "cpu":
            return 0
        return outside.WORKSPACES * outside.workspace_bytes(question.device, question.figures)

    # -------------------------------------------------------------- parts
    def base(self, *, gradients: bool) -> dict[Component, int]:
        """Bytes there throughout the step; with the gradients where they are kept."""
        quantum = self.question.quantum_bytes
        static = self.static
        parts: dict[Component, int] = {
            "weights": total_bytes(static.weights, quantum),
            "quantization_state": total_bytes(static.quantization_state, quantum),
            "adapter": total_bytes(static.adapter, quantum),
            "gradients": total_bytes(static.trainable, quantum) if gradients else 0,
            "optimizer": total_bytes(self.states, quantum),
            "buffers": total_bytes(self.buffers, quantum),
            "batch": total_bytes(self.batch, quantum),
            "workspace": self.workspaces_bytes,
        }
        return parts

    def phase_parts(self) -> dict[PhaseName, dict[Component, int]]:
        """Every phase's bytes by component at its peak."""
        base = self.base(gradients=self.question.accumulating)
        still = self.still_parts()
        found: dict[PhaseName, dict[Component, int]] = {"load": still.pop("load")}
        for phase in STEP_PHASES:
            peak = self.replayed.peaks[phase]
            found[phase] = {name: base.get(name, 0) + peak.parts.get(name, 0) for name in ORDER}
        found["optimizer_step"] = still.pop("optimizer_step")
        between = self._between_steps(gradients=loop.keeps_gradients(self.question.setup))
        evaluated = phases.evaluation(between, self.replay)
        if evaluated is not None:
            found["evaluation"] = evaluated
        return found | still

    def still_parts(self) -> dict[PhaseName, dict[Component, int]]:
        """The same of the phases in which nothing goes through the model."""
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
        held = loop.held_parts(self.question.setup, self.replayed)
        base = self.base(gradients=gradients)
        return {name: base.get(name, 0) + held.get(name, 0) for name in ORDER}

    # -------------------------------------------------------------- the answer
    def least_high_bytes(self) -> int:
        """The high process figure if the allocator wasted nothing: it is never below."""
        return self.budget(with_tensors=False, with_allocator=False).high_process_bytes

    def budget(self, *, with_tensors: bool = True, with_allocator: bool = True) -> MemoryBudget:
        """The whole budget; without the allocator's replay, reserved is what is allocated."""
        found = tuple(self._phase(name, parts) for name, parts in self.phase_parts().items())
        # loading is exempt: how much of it coincides is chance, and it is over before the rest begins
        peak = max((phase for phase in found if phase.name != "load"), key=lambda phase: phase.allocated_bytes)
        dynamic_gap = sum(line.high_bytes - line.estimate_bytes for line in peak.lines)
        allocated = peak.allocated_bytes
        reserved, worst = self._reserved(allocated) if with_allocator else (allocated, allocated)
        worst += ceil(self.question.figures.fragmentation_fraction * reserved)
        high_reserved = worst + dynamic_gap
        process_lines = self._process_lines(reserved - allocated, worst - allocated)
        held = self._between_steps(gradients=loop.keeps_gradients(self.question.setup))
        return MemoryBudget(
            phases=found,
            peak_phase=peak.name,
            peak_allocated_bytes=peak.allocated_bytes,
            peak_reserved_bytes=reserved,
            high_reserved_bytes=high_reserved,
            process_bytes=peak.allocated_bytes + sum(line.estimate_bytes for line in process_lines),
            high_process_bytes=peak.allocated_bytes + dynamic_gap + sum(line.high_bytes for line in process_lines),
            process_lines=process_lines,
            steady_allocated_bytes=sum(held.values()),
            held=tuple(self._lines(held)),
            peak_tensors=live_at_peak(self.replay) if with_tensors else (),
        )

    def _phase(self, name: PhaseName, parts: dict[Component, int]) -> PhaseBudget:
        return PhaseBudget(name=name, allocated_bytes=sum(parts.values()), lines=tuple(self._lines(parts, name)))

    def _lines(self, parts: dict[Component, int], phase: PhaseName | None = None) -> list[BudgetLine]:
        figures = self.question.figures
        dynamic = sum(size for name, size in parts.items() if not is_exact(name))
        at_least = figures.dynamic_least_share * sum(parts.values())
        fraction = figures.dynamic_fraction * max(1.0, at_least / dynamic if dynamic else 1.0)
        lines = [self._line(name, parts[name], fraction, phase) for name in ORDER if parts.get(name)]
        unseen = 0 if dynamic or self.question.route == "cpu" else ceil(figures.dynamic_fraction * at_least)
        if unseen:  # nothing lives inside this phase, and runs were off by something
            line = self._line("temporaries", 0, 0.0, phase)
            lines.append(line.model_copy(update={"high_bytes": unseen}))
        return lines

    def _line(self, name: Component, size: int, fraction: float, phase: PhaseName | None) -> BudgetLine:
        figures = self.question.figures
        exact = is_exact(name) or self.question.route == "cpu"
        gap = 0 if exact else ceil(size * fraction)
        return BudgetLine(
            component=name,
            estimate_bytes=size,
            high_bytes=size + gap,
            bytes_per_param=size / max(1, self.question.model.total_params),
            because=phases.BECAUSE.get((phase, name), self.because[name]) if phase else self.because[name],
            source=figures.workspace_source if name == "workspace" else None if exact else figures.dynamic_source,
        )

    def _reserved(self, allocated: int) -> tuple[int, int]:
        """What is reserved, expected and in the worst order of steps; never less than what is allocated."""
        if self.question.route == "cpu":
            return allocated, allocated
        found = sorted(max(allocated, self._reserved_over(steps)) for steps in self._orders())
        return found[len(found) // 2], found[-1]

    def process_at_limit(self, available_bytes: int) -> int | None:
        """What the process holds where the driver has no more than this: the allocator then gives back what it has
        cached and asks again, which takes time. None: it runs out of memory even so, in some order of steps."""
        if self.question.route == "cpu":
            return None
        context, _ = outside.context_bytes(self.question.route, self.question.figures)
        try:
            return context + max(self._reserved_over(steps, available_bytes - context) for steps in self._orders())
        except OutOfDeviceMemory:
            return None

    def _reserved_over(self, steps: list[Replay], limit_bytes: int | None = None) -> int:
        before = [*self.static.weights, *self.static.quantization_state, *self.static.adapter]
        return reserved_bytes(
            steps,
            warmed_up_bytes=phases.warmed_up_bytes(self.static.weights, self.question.setup),
            loading_bytes=phases.quantizing_bytes(self.question.model, self.question.setup),
            before=[*before, *self.buffers, *self.batch],
            optimizer=self.states,
            gradients=self.static.trainable if self.question.accumulating else [],
            step_temporaries=optimizer.step_temporaries(
                self.question.setup.optimizer, self.static.trainable, loop=self.question.setup.loop
            ),
            workspace_bytes=self.workspaces_bytes,
            alloc_conf=self.question.setup.alloc_conf,
            limit_bytes=limit_bytes,
        )

    def _orders(self) -> list[list[Replay]]:
        """The orders of steps to replay. Our executor starts with the longest rows, and segments that expand have no
        order; elsewhere each row longer than all before it takes segments of its own."""
        setup, quantiles = self.question.setup, self.question.workload.length_quantiles
        micro_batch = setup.micro_batch_size
        if not quantiles or setup.loop == "executor" or parse_alloc_conf(setup.alloc_conf).expandable_segments:
            later = step_lengths(quantiles, micro_batch)
            return [[self.replay] * LONGEST_STEPS + [self._step(length) for length in later]]
        orders = [record_lengths(quantiles, micro_batch, self._num_batches(), seed) for seed in ORDERS]
        later = step_lengths(quantiles, micro_batch)
        return [[self._step(length) for length in (*records, *later)] for records in orders]

    def _num_batches(self) -> int:
        """Micro batches of the run on one device: later epochs meet the same rows."""
        workload = self.question.workload
        if workload.num_examples is None:
            return UNKNOWN_BATCHES
        rows = workload.num_examples * min(1.0, workload.num_train_epochs)
        return max(1, ceil(rows / self.question.setup.micro_batch_size))

    def _step(self, sequence_length: int) -> Replay:
        """A step of another length, by the same program: beside the longest, others hardly decide."""
        question = self.question
        workload = question.workload.model_copy(update={"sequence_length": max(2, sequence_length)})
        values = replay_values(question.model, workload, question.setup)
        return Replay(self.replay.program, replace(self.replay.at, values=values))

    def _process_lines(self, over_allocated: int, at_worst: int) -> tuple[BudgetLine, ...]:
        """What the process holds beside what is allocated; at worst, in the least favourable order of steps and as far
        off as runs here have shown."""
        figures = self.question.figures
        estimate, high = outside.context_bytes(self.question.route, figures)
        total_params = max(1, self.question.model.total_params)

        def line(component: Component, low: int, up_to: int, because: str, source: str) -> BudgetLine:
            return BudgetLine(
                component=component,
                estimate_bytes=low,
                high_bytes=up_to,
                bytes_per_param=low / total_params,
                because=because,
                source=source,
            )

        if self.question.route == "cpu":
            return (line("context", estimate, high, "Python and its libraries", outside.CPU_PROCESS_SOURCE),)
        return (
            line("context", estimate, high, "CUDA context and loaded kernels", figures.context_source),
            line(
                "fragmentation",
                over_allocated,
                at_worst,
                f"segments beyond tensors, {self.question.setup.alloc_conf or 'default allocator'}",
                figures.fragmentation_source,
            ),
        )
