"""Replaying memory programs: a small one worked by hand, and what must hold for every one that ships."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.programs import KIND, hand_written
from vramplan.planner.adapters import programs
from vramplan.planner.errors import NoProgramError
from vramplan.planner.memory.expand import expand, live_at_peak
from vramplan.planner.memory.replay import At, Replay, Replayed
from vramplan.planner.programs.program import Program, neighbourhood


def at(depth: int, *, quantum: int = 1, accumulating: bool = False, **values: int) -> At:
    sizes = {"B": 2, "S": 3, "N": 4, "h": 4, "f": 8, "H": 2, "K": 2, "d": 2, "V": 10, "r": 1, **values}
    return At(sizes, (KIND,) * depth, quantum, accumulating)


def replayed(where: At) -> Replayed:
    return Replay(hand_written(), where).run()


def totals(answer: Replayed) -> dict[str, int]:
    return {phase: peak.total_bytes for phase, peak in answer.peaks.items()}


# ------------------------------------------------------------------ by hand
def test_the_peaks_of_two_layers_by_hand() -> None:
    answer = replayed(at(2))
    assert totals(answer) == {
        "forward": 9 + 48 + 48 + 24,
        "loss": 9 + 48 + 48 + 100,
        "backward": 9 + 48 + 48 + 24 + 16,
    }
    # both gradients are what is left; mask and activations are gone
    assert answer.end_bytes == 16 + 16
    assert answer.end_parts == {"gradients": 32}


def test_each_layer_more_keeps_one_more_activation() -> None:
    for depth in (2, 3, 7, 80):
        answer = replayed(at(depth))
        assert answer.peaks["loss"].total_bytes == 9 + 48 * depth + 100
        assert answer.end_bytes == 16 * depth


def test_parts_are_those_of_the_highest_point() -> None:
    peaks = replayed(at(2)).peaks
    assert peaks["forward"].parts == {"activations": 9 + 96, "temporaries": 24}
    assert peaks["loss"].parts == {"activations": 9 + 96, "loss": 100}
    assert peaks["backward"].parts == {"activations": 9 + 96, "temporaries": 24, "gradients": 16}


def test_accumulated_gradients_die_as_they_are_added() -> None:
    answer = replayed(at(3, accumulating=True))
    assert answer.end_bytes == 0
    assert answer.end_parts == {}
    # never more than one of them at once, so the first layer of the backward is the peak at any depth
    assert answer.peaks["backward"].total_bytes == 9 + 3 * 48 + 24 + 16


def test_kept_gradients_can_make_the_end_of_the_backward_its_peak() -> None:
    # h = 400, B = S = 1: activation 800, temporary 400, gradient 1600, mask 1: the last layer adds 1600 to 3 x 1600
    answer = replayed(at(4, B=1, S=1, h=400))
    assert answer.peaks["backward"].total_bytes == 1 + 800 + 4 * 1600
    assert answer.peaks["backward"].parts == {"activations": 801, "gradients": 6400}


def test_every_allocation_is_rounded_by_itself() -> None:
    answer = replayed(at(2, quantum=512))
    assert totals(answer) == {"forward": 4 * 512, "loss": 4 * 512, "backward": 5 * 512}
    assert answer.end_bytes == 2 * 512


def test_a_layer_the_program_does_not_know_is_not_guessed() -> None:
    unknown = At(at(3).values, (KIND, "other", KIND), 1)
    with pytest.raises(NoProgramError):
        Replay(hand_written(), unknown).run()


# ------------------------------------------------------------------ neighbourhoods
def test_a_neighbourhood_is_a_layer_between_its_neighbours() -> None:
    kinds = ("a", "a", "a", "a")
    assert [neighbourhood(kinds, layer, 1) for layer in range(4)] == ["^ a a", "a a a", "a a a", "a a $"]
    assert neighbourhood(("a", "a", "b"), 0, 2) == "^ ^ a a b"


def test_the_first_and_the_last_of_a_kind_are_not_like_those_between() -> None:
    kinds = tuple("sfsfsfsf")
    assert [neighbourhood(kinds, layer, 1) for layer in (1, 3, 5)] == ["s ^f s", "s f s", "s f s"]
    assert [neighbourhood(kinds, layer, 1) for layer in (2, 4, 6)] == ["f s f", "f s f", "f s$ f"]


# ------------------------------------------------------------------ written out in full
def written_out(replay: Replay) -> tuple[int, int]:
    """(highest level, level at the end); every free is of a storage that is alive, and
    all that was allocated is freed or still there."""
    storages, changes, _ = expand(replay)
    born: set[int] = set()
    alive: set[int] = set()
    level = highest = 0
    for change in changes:
        index = change if change >= 0 else ~change
        level += storages[index].size_bytes if change >= 0 else -storages[index].size_bytes
        highest = max(highest, level)
        if change >= 0:
            assert index not in born
            born.add(index)
            alive.add(index)
        else:
            alive.remove(index)
    freed = sum(storages[index].size_bytes for index in born - alive)
    assert level == sum(storages[index].size_bytes for index in alive)
    assert sum(storage.size_bytes for storage in storages) == freed + level
    return highest, level


@pytest.mark.parametrize("accumulating", [False, True])
@pytest.mark.parametrize("quantum", [1, 512])
def test_the_hand_written_program_in_full_has_the_same_peak_and_end(quantum: int, accumulating: bool) -> None:
    replay = Replay(hand_written(), at(5, quantum=quantum, accumulating=accumulating))
    answer = replay.run()
    assert written_out(replay) == (max(totals(answer).values()), answer.end_bytes)


def test_the_tensors_at_the_peak_are_named_and_counted() -> None:
    tensors = live_at_peak(Replay(hand_written(), at(2)))
    assert [(t.label, t.shape, t.count, t.total_bytes) for t in tensors] == [
        ("lm_head aten.mm", "(100)", 1, 100),
        ("mlp aten.mm", "(B, S, h)", 2, 96),
        ("model aten.triu", "(S, S)", 1, 9),
    ]


# ------------------------------------------------------------------ whatever ships
@functools.cache
def shipped() -> tuple[Program, ...]:
    """Some of the programs that ship, spread over them: those whose sizes are variables. A loop by hand is left out,
    for its step begins with what the step before left."""
    digests = sorted(programs.shipped_digests())
    found = (programs._shipped(digest) for digest in digests[:: max(1, len(digests) // 24)])
    return tuple(
        program
        for program in found
        if program is not None and program.key.structure.config is None and program.key.mode.loop != "plain"
    )


@functools.cache
def stretch(kinds: tuple[str, ...]) -> tuple[int, int]:
    """The shortest stretch of layers that can come again without a neighbourhood of another kind."""

    def around(stack: tuple[str, ...]) -> set[str]:
        return {neighbourhood(stack, layer, 1) for layer in range(len(stack))}

    found = (
        (stop - length, stop)
        for length in range(len(set(kinds)), len(kinds))
        for stop in range(length, len(kinds))
        if around(kinds[:stop] + kinds[stop - length : stop] + kinds[stop:]) == around(kinds)
    )
    return next(found)


def at_sizes(program: Program, longer: int, quantum: int, **values: int) -> At:
    """Sizes inside the program's regime, its stack longer by so many stretches."""
    structure = program.key.structure
    sizes = {"B": 2, "S": 640, "h": 512, "f": 1376, "H": 8, "d": 64, "V": 33_000, "r": 8, **values}
    sizes |= {"b": 64, "P": 20, "e": 512, "C": 2}  # of bottlenecks, virtual tokens, their encoder, classifiers
    sizes["K"] = {"mha": 8, "gqa": 2, "mqa": 1}[structure.heads]
    if structure.single_row:
        sizes["B"] = 1
    if not structure.aligned_heads:
        sizes["d"] = 100
    sizes["N"] = sizes["B"] * (sizes["S"] - 1)
    kinds = structure.kinds
    start, stop = stretch(kinds)
    return At(sizes, kinds[:stop] + kinds[start:stop] * longer + kinds[stop:], quantum)


some_program = st.sampled_from(range(12)).map(lambda index: shipped()[index % len(shipped())])


@pytest.mark.skipif(not programs.shipped_digests(), reason="no programs have been built")
class TestShippedPrograms:
    @pytest.mark.parametrize("quantum", [1, 512])
    def test_every_free_is_of_a_living_tensor_and_both_replays_agree(self, quantum: int) -> None:
        for program in shipped():
            replay = Replay(program, at_sizes(program, 4, quantum))
            answer = replay.run()
            assert written_out(replay) == (max(totals(answer).values()), answer.end_bytes)

    @settings(max_examples=30, deadline=None)
    @given(
        program=some_program,
        longer=st.integers(0, 20),
        grown=st.sampled_from(["B", "S", "depth", "r", "V"]),
        by=st.integers(1, 300),
        quantum=st.sampled_from([1, 512]),
    )
    def test_more_of_anything_never_needs_less(
        self, program: Program, longer: int, grown: str, by: int, quantum: int
    ) -> None:
        base = at_sizes(program, longer, quantum)
        values = {name: base.values[name] + by for name in (grown,) if name in base.values}
        more = at_sizes(program, longer + (by % 30 if grown == "depth" else 0), quantum, **values)
        low, high = Replay(program, base).run(), Replay(program, more).run()
        for phase, peak in low.peaks.items():
            assert peak.total_bytes <= high.peaks[phase].total_bytes

    def test_a_micro_step_leaves_gradients_and_little_else(self) -> None:
        for program in shipped():
            answer = Replay(program, at_sizes(program, 4, 1)).run()
            assert answer.end_parts["gradients"] > 0
            assert answer.end_bytes - answer.end_parts["gradients"] < 1000  # the loss, a few scalars
