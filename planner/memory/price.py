"""Assemble a MemoryBudget: static tensors counted, dynamic ones replayed, the allocator replayed, the rest bounded."""

from dataclasses import replace
from math import ceil

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
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.reserved import reserved_bytes
from vramplan.planner.memory.segments import OutOfDeviceMemory
from vramplan.planner.memory.standing import CUDA_QUANTUM_BYTES as CUDA_QUANTUM_BYTES
from vramplan.planner.memory.standing import ORDER, Standing, at_of, buffer_groups
from vramplan.planner.memory.standing import Question as Question
from vramplan.planner.memory.static import total_bytes
from vramplan.planner.memory.structure import replay_values
from vramplan.planner.programs.program import Program

LONGEST_STEPS = 2
"""Reserved memory is flat from the second step on; optimizer states are born at the end of the first."""
ORDERS = range(9)
"""Seeds of the orders in which a run that draws its batches by chance is replayed."""
NUMBER_BYTES = 8
NUMBERS_SOURCE = (
    "on a CPU autograd keeps a Python number that an operation was given as a tensor of 8 bytes, which no trace sees "
    "(torch/csrc/autograd/saved_variable.cpp): at most one a tensor (benchmarks/results/methods.json)"
)
STEP_PHASES: tuple[PhaseName, ...] = ("forward", "loss", "backward")


def is_exact(component: Component) -> bool:
    """Counted to the byte: all but what lives inside a step."""
    return component in (*STATIC_COMPONENTS, "batch", "workspace")


class Pricing(Standing):
    """One question answered with one program; ``budget()`` is the answer."""

    def __init__(self, question: Question, program: Program) -> None:
        self.replay = Replay(program, at_of(question))
        self.replayed = self.replay.run()
        super().__init__(question, buffer_groups(self.replay))
        setup, trainable = question.setup, self.static.trainable
        managed = optimizer.managed_groups(setup.optimizer, trainable, question.route, loop=setup.loop)
        self.managed_bytes = total_bytes(managed, question.quantum_bytes)
        self.because = reasons(question.model, question.setup, self.static, self.managed_bytes)

    # -------------------------------------------------------------- parts
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

    def held_parts(self) -> dict[Component, int]:
        """What the loop's names hold when a step is over, gradients apart."""
        return loop.held_parts(self.question.setup, self.replayed)

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
        if self.question.route == "cpu":
            return self._with_numbers(lines, phase) if phase in (*STEP_PHASES, "optimizer_step") else lines
        if not dynamic:  # nothing lives inside this phase, and runs were off by something
            line = self._line("temporaries", 0, 0.0, phase)
            unseen = ceil(figures.dynamic_fraction * at_least)
            lines += [line.model_copy(update={"high_bytes": unseen})] if unseen else []
        return lines

    def _with_numbers(self, lines: list[BudgetLine], phase: PhaseName | None) -> list[BudgetLine]:
        """The lines of a CPU's phase with room in the last that is not exact for the numbers autograd keeps."""
        room = NUMBER_BYTES * self.replay.num_allocations
        place = next((at for at in reversed(range(len(lines))) if not is_exact(lines[at].component)), None)
        line = self._line("temporaries", 0, 0.0, phase) if place is None else lines.pop(place)
        wider = line.model_copy(update={"high_bytes": line.high_bytes + room, "source": NUMBERS_SOURCE})
        return [*lines, wider] if place is None else [*lines[:place], wider, *lines[place:]]

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
