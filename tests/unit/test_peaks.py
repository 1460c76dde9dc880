"""Compiled programs against their replay: the same peaks to the byte, at any sizes, whatever the mode."""

import functools
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import KIND, hand_written
from vramplan.planner.adapters import programs
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.memory.peaks import AllocatedPeaks, allocated_peak_bytes
from vramplan.planner.memory.price import Question
from vramplan.planner.memory.replay import At, Replay
from vramplan.planner.memory.step_forms import PeakForms
from vramplan.planner.memory.structure import program_key
from vramplan.planner.methods import Full, Lora, Method, Qlora
from vramplan.planner.programs.program import Program
from vramplan.planner.training_setup import Precision, TrainingSetup
from vramplan.planner.workload import Workload

DIMS = {"h": 96, "f": 200, "H": 6, "K": 2, "d": 16, "V": 40000}
OF_METHODS = {"b": 24, "P": 20, "e": 96, "C": 2}
"""Bottlenecks, virtual tokens, their encoder, classes."""
BATCHES, LENGTHS, RANKS = st.integers(2, 40), st.integers(2, 9000), st.integers(1, 300)


@functools.cache
def some_shipped() -> list[Program]:
    """Every thirtieth program that ships and whose sizes are variables."""
    digests = sorted(programs.shipped_digests())
    found = [programs._shipped(digest) for digest in digests[::30]]
    return [program for program in found if program is not None and program.key.structure.config is None]


def point(batch: int, length: int, rank: int, share: float) -> dict[str, int]:
    return {"B": batch, "S": length, "N": max(1, round(share * batch * (length - 1))), "r": rank} | OF_METHODS


def replay(program: Program, sizes: dict[str, int], *, quantum: int, accumulating: bool) -> Replay:
    kinds = program.key.structure.kinds
    if len(set(kinds)) == 1:  # a layer more; kinds that take turns stay in theirs
        kinds += kinds[:1]
    return Replay(program, At({**DIMS, **sizes}, kinds, quantum, accumulating))


def test_the_hand_written_step_compiled() -> None:
    sizes = {"B": 2, "S": 3, "N": 4, "h": 4, "f": 8, "H": 2, "K": 2, "d": 2, "V": 10, "r": 1}
    forms = PeakForms(Replay(hand_written(), At(sizes, (KIND,) * 7, 1, False)))
    kept = 9 + 48 * 7
    assert forms.phase_peaks({"B": 2, "S": 3, "N": 4, "r": 1}) == {
        "forward": kept + 24,
        "loss": kept + 100,
        "backward": kept + 24 + 16,
    }
    assert forms.end_bytes({"B": 2, "S": 3, "N": 4, "r": 1}) == 16 * 7
    # twice the rows: the activations double, the mask and the gradients do not
    assert forms.peak_bytes({"B": 4, "S": 3, "N": 4, "r": 1}) == 9 + 96 * 7 + 100


@settings(deadline=None)
@given(st.integers(0, 10**6), BATCHES, LENGTHS, RANKS, st.floats(0.01, 1.0), st.sampled_from((1, 512)), st.booleans())
def test_compiled_peaks_are_the_replays(
    choice: int, batch: int, length: int, rank: int, share: float, quantum: int, accumulating: bool
) -> None:
    program = some_shipped()[choice % len(some_shipped())]
    where = point(batch, length, rank, share)
    answer = replay(program, where, quantum=quantum, accumulating=accumulating).run()
    compiled = _compiled(choice % len(some_shipped()), quantum, accumulating)
    assert compiled.phase_peaks(where) == {phase: peak.total_bytes for phase, peak in answer.peaks.items()}
    assert compiled.peak_bytes(where) == max(peak.total_bytes for peak in answer.peaks.values())
    assert compiled.end_bytes(where) == answer.end_bytes
    gradients = answer.end_parts.get("gradients", 0)
    assert compiled.held_bytes(where) == answer.end_bytes - gradients


@functools.cache
def _compiled(index: int, quantum: int, accumulating: bool) -> PeakForms:
    """Compiled at sizes of its own, so that what varies is seen to vary."""
    return PeakForms(replay(some_shipped()[index], point(3, 50, 8, 1.0), quantum=quantum, accumulating=accumulating))


# ------------------------------------------------------------------ whole setups
class Case(NamedTuple):
    """A model and a setup whose programs ship."""

    model: str
    method: Method
    accumulation: int
    checkpointing: bool


CASES = (
    Case("Qwen/Qwen2.5-0.5B", Full(), 1, True),
    Case("meta-llama/Llama-3.1-8B", Qlora(), 4, True),
    Case("meta-llama/Llama-3.1-8B", Lora(), 1, False),
    Case("Qwen/Qwen3-8B", Lora(), 2, True),
)


def question(case: Case, batch: int, length: int, rank: int) -> Question:
    method = case.method if isinstance(case.method, Full) else case.method.model_copy(update={"r": rank})
    setup = TrainingSetup(
        method=method,
        precision=Precision(
            dtype="bf16",
            mixed_precision="bf16",
            adapter_dtype="bf16" if case.method.kind == "qlora" else "fp32",
        ),
        micro_batch_size=batch,
        gradient_accumulation_steps=case.accumulation,
        gradient_checkpointing=case.checkpointing,
    )
    return Question(resolve_model(case.model, online=False), Workload(sequence_length=length), setup, "cuda")


@functools.cache
def prepared(case: Case) -> tuple[AllocatedPeaks, Program]:
    any_point = question(case, 2, 64, 4)
    program = programs.known_program(
        program_key(any_point.model, any_point.workload, any_point.setup, "cuda", None)
    ).program
    return AllocatedPeaks(any_point, program), program


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model} {case.method.kind}")
@settings(deadline=None)
@given(batch=BATCHES, length=st.integers(2, 4000), rank=RANKS)
def test_allocated_peaks_are_pricings(case: Case, batch: int, length: int, rank: int) -> None:
    peaks, program = prepared(case)
    asked = None if isinstance(case.method, Full) else rank
    assert peaks.at(batch, length, asked) == allocated_peak_bytes(question(case, batch, length, rank), program)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.model} {case.method.kind}")
@settings(deadline=None)
@given(batch=st.integers(2, 30), length=st.integers(2, 3000), rank=st.integers(1, 200), more=st.integers(1, 50))
def test_a_larger_setup_never_peaks_lower(case: Case, batch: int, length: int, rank: int, more: int) -> None:
    peaks, _ = prepared(case)
    asked = None if isinstance(case.method, Full) else rank
    least = peaks.at(batch, length, asked)
    assert 0 < least <= peaks.at(batch + more, length, asked)
    assert least <= peaks.at(batch, length + more, asked)
    if asked is not None:
        assert least <= peaks.at(batch, length, asked + more)
