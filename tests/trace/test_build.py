"""The proof refuses: a program that misses a byte, layers that differ, traces that disagree, sizes without a name."""

import copy

import pytest

from tests.trace.tiny_models import llama_key

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

KINDS = ("full_attention",) * 4


def _key():
    return llama_key({"loss": "standard", "gradient_checkpointing": False})


@pytest.fixture(scope="module")
def recorded():
    """Real traces by (sequence, layers), each made once."""
    from vramplan.planner.trace.record import record

    known = {}

    def recall(case, *, as_macro=True):
        name = (case.sequence, case.config["num_hidden_layers"])
        if name not in known:
            known[name] = record(case, as_macro=as_macro)
        return known[name]

    return recall


@pytest.fixture
def build_with(recorded, monkeypatch):
    """build_program on traces a test may edit first: ``edit(which, trace)``."""
    from vramplan.planner.trace import build

    which = {build.FIT_SIZES[0]["S"]: "one", build.FIT_SIZES[1]["S"]: "other", build.HELD_OUT["S"]: "held out"}

    def run(edit):
        def edited(case, *, as_macro=True):
            trace = copy.copy(recorded(case, as_macro=as_macro))
            trace.events, trace.storages = list(trace.events), list(trace.storages)
            edit(which[case.sequence], trace)
            return trace

        monkeypatch.setattr(build, "record", edited)
        return build.build_program(_key())

    return run


def _plant(trace, segment, nbytes, *, freed):
    """One more allocation at the start of a segment, freed at once or never."""
    import torch

    from vramplan.planner.trace.tracker import Event, Storage

    at = next(i for i, event in enumerate(trace.events) if event.segment == segment)
    index = len(trace.storages)
    trace.storages.append(Storage(index, nbytes, (nbytes,), torch.uint8, "aten.phantom", segment, "phantom"))
    trace.events[at:at] = [Event(kind, index, segment) for kind in (("alloc", "free") if freed else ("alloc",))]


def test_untouched_traces_are_proved(build_with):
    program = build_with(lambda which, trace: None)
    assert program.key == _key()
    assert program.versions["torch"]


@pytest.mark.parametrize(
    ("segment", "what"),
    [
        (("forward.layer", 3), "forward"),
        (("backward.head", None), "loss"),
        (("backward.layer", 3), "the step's end"),  # after the highest point of the backward
    ],
)
def test_a_phantom_allocation_in_the_held_out_trace_is_found(build_with, segment, what):
    from vramplan.planner.trace.build import ProofError

    def edit(which, trace):
        if which == "held out":
            _plant(trace, segment, 4096, freed=False)

    with pytest.raises(ProofError, match=f"{what} differs by -4096 bytes"):
        build_with(edit)


def test_a_phantom_allocation_in_the_traces_it_is_made_from_is_found(build_with):
    from vramplan.planner.trace.build import ProofError

    def edit(which, trace):
        if which != "held out":
            _plant(trace, ("forward.layer", 0), 4096, freed=False)

    with pytest.raises(ProofError, match="forward differs by 4096 bytes"):
        build_with(edit)


def test_layers_of_one_kind_that_behave_differently_make_no_program(build_with):
    from vramplan.planner.trace.fold import FoldError

    with pytest.raises(FoldError, match=r"differ in forward\.layer"):
        build_with(lambda which, trace: _plant(trace, ("forward.layer", 2), 64, freed=True))


def test_the_first_layer_may_behave_differently(build_with):
    assert build_with(lambda which, trace: _plant(trace, ("forward.layer", 0), 64, freed=True))


def test_traces_that_disagree_make_no_program(build_with):
    from vramplan.planner.trace.fold import FoldError

    def edit(which, trace):
        if which == "other":
            _plant(trace, ("forward.layer", 0), 64, freed=True)

    with pytest.raises(FoldError, match="traces differ at event"):
        build_with(edit)


def test_a_size_that_follows_no_variable_makes_no_program(build_with):
    from vramplan.planner.trace.symbols import NoSymbolError

    sizes = {"one": 1_000_003, "other": 2_000_003, "held out": 1}
    with pytest.raises(NoSymbolError):
        build_with(lambda which, trace: _plant(trace, ("forward.layer", 0), sizes[which], freed=True))


# ------------------------------------------------------------------ more than one kind of layer
@pytest.mark.parametrize(
    ("kinds", "deep"),
    [
        ("aaaa", "aaaaaa"),
        ("sfsfsf", "sfsfsfsfsf"),
        ("abbbb", "abbbbbb"),
        ("aaa", "aaa"),  # every layer is beside an end: a program of this very depth
        ("abcd", "abcd"),
    ],
)
def test_a_proof_is_deeper_than_what_was_traced(kinds, deep):
    from vramplan.planner.trace.build import deeper

    assert "".join(kinds[position] for position in deeper(tuple(kinds))) == deep


def test_what_layers_of_a_kind_share_is_freed_once_at_any_depth():
    """Sliding and full layers in turn, each kind with a mask of its own that lives until its last use."""
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.memory.structure import program_key
    from vramplan.planner.methods import Full
    from vramplan.planner.trace import build
    from vramplan.planner.training_setup import TrainingSetup
    from vramplan.planner.workload import Workload

    model = resolve_model("google/gemma-2-9b", online=False)
    setup = TrainingSetup(method=Full(), micro_batch_size=2, attention="eager", loss="standard")
    key = program_key(model, Workload(sequence_length=512), setup, "cuda", None)
    assert key.structure.kinds == ("sliding_attention", "full_attention") * 3
    program = build.build_program(key)
    build.prove(program, build.HELD_OUT, (0, 1, *(2, 3) * 6, 4, 5))
