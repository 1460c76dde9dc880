"""The parts of the app that are plain functions: bars, dials, the state, the command line it offers."""

import re
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_candidate, make_device, make_plan
from tests.tui.fake_core import FakeCore, script, spec
from vramplan.executor.events import Failed, Paused, Resumed, Step
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.main import build_parser
from vramplan.planner.cli.options import PLACE, RECIPE, SETUP, given_options
from vramplan.planner.device import Device
from vramplan.planner.errors import NoProgramError
from vramplan.planner.largest import Largest, largest
from vramplan.planner.memory.budget import Component
from vramplan.planner.units import GIB, parse_bytes
from vramplan.tui.bindings import ACTIONS
from vramplan.tui.choice import Choice, Knobs, SavedPlan
from vramplan.tui.command_line import plan_command
from vramplan.tui.knobs import KNOBS, read_typed, turned
from vramplan.tui.layout import share_cells
from vramplan.tui.more_knobs import all_knobs
from vramplan.tui.state import RunState, State, why_not
from vramplan.tui.theme import COMPONENTS, VERDICTS

BY_NAME = {knob.name: knob for knob in KNOBS}


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=20), st.integers(1, 300))
def test_the_cells_of_a_bar_fill_it_exactly_and_differ_from_the_share_by_less_than_one(
    amounts: list[int], width: int
) -> None:
    cells = share_cells(amounts, width)
    total = sum(amounts)
    assert sum(cells) == (width if total else 0)
    assert all(abs(cell * total - amount * width) < total for cell, amount in zip(cells, amounts, strict=True) if total)


def test_every_component_and_verdict_has_a_look_of_its_own() -> None:
    assert set(COMPONENTS) == set(Component.__args__)  # type: ignore[attr-defined]
    glyphs = [glyph for glyph, _ in COMPONENTS.values()]
    assert len(set(glyphs)) == len(glyphs)
    assert set(VERDICTS) == {"fits", "tight", "no", None}


def test_every_action_has_an_id_of_its_own() -> None:
    assert len({action.id for action in ACTIONS}) == len(ACTIONS)


def test_turning_a_number_stops_at_its_ends_and_snaps_to_the_listed_values() -> None:
    rank = BY_NAME["rank"]
    assert [turned(rank, 16, 1), turned(rank, 16, -1), turned(rank, 1, -1), turned(rank, 1024, 1)] == [32, 8, 1, 1024]
    assert [turned(rank, 20, 1), turned(rank, 20, -1)] == [32, 16]
    assert turned(BY_NAME["gradient_checkpointing"], True, 1) is False


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "1e3", "٣", "9" * 10, "x"])
def test_a_typed_number_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        read_typed(BY_NAME["rank"], text)


KNOB_VALUES = st.builds(
    Knobs,
    method=st.sampled_from([None, "lora", "qlora"]),
    sequence_length=st.sampled_from([None, 777]),
    micro_batch=st.sampled_from([None, 3]),
    rank=st.sampled_from([None, 9]),
    gradient_checkpointing=st.sampled_from([None, True, False]),
    optimizer=st.sampled_from([None, "adafactor"]),
    data=st.sampled_from([None, "my data.jsonl", "it's"]),
    max_steps=st.sampled_from([None, 5]),
    more=st.fixed_dictionaries(
        {},
        optional={
            "quant": st.just("fp4"),
            "use_dora": st.booleans(),
            "columns": st.just("text=a b,label=c"),
            "learning_rate": st.just("1e-4"),
            "eval_data": st.just("held out.jsonl"),
        },
    ),
    reserve=st.sampled_from([None, "2GiB"]),
    host_memory=st.sampled_from([None, "512GiB"]),
    interconnect=st.sampled_from([None, "nvlink4,infiniband-ndr"]),
)


def test_every_option_of_estimate_recommend_and_plan_is_an_option_of_the_app() -> None:
    named_elsewhere = {"device", "memory", "revision"}  # on Hardware, and with the model's name
    matters = {action.dest for action in build_parser("recommend").command._actions if action.option_strings}
    options = {option.name for option in (*PLACE, *SETUP, *RECIPE)} | (matters - {"help", "help_all", "json"})
    for place in ("budget", "workload", "hardware"):
        assert {knob.name for knob in all_knobs(place)} == options - named_elsewhere
    names = [knob.name for knob in all_knobs("budget")]
    assert len(names) == len(set(names))


def test_what_another_method_knows_nothing_of_is_left_behind() -> None:
    knobs = Knobs(rank=8, prefer="memory", reserve="2GiB", more={"use_dora": True, "learning_rate": "1e-4"})
    full = knobs.for_method("full")
    assert full.setup == {"method": "full", "learning_rate": 1e-4}
    assert (full.prefer, full.reserve) == ("memory", "2GiB")


@pytest.mark.parametrize(
    ("name", "text"),
    [("quant", "nf8"), ("learning_rate", "fast"), ("reserve", "lots"), ("interconnect", "string"), ("prefer", "love")],
)
def test_what_the_command_line_does_not_take_the_app_does_not_take_either(name: str, text: str) -> None:
    knob = next(knob for knob in all_knobs("budget") if knob.name == name)
    with pytest.raises(ValueError, match=re.escape(text)):
        read_typed(knob, text)


@given(KNOB_VALUES)
def test_the_command_line_the_app_offers_parses_back_to_what_was_set(knobs: Knobs) -> None:
    choice = Choice(model=spec("fake/odd[red]name"), device=make_device(), knobs=knobs)
    words = shlex.split(plan_command(choice, "runs/x y/plan.json"))
    assert words[0] == "vramplan"
    args = build_parser("plan").parse_all(words[1:])
    assert given_options(args) == knobs.setup
    around = [None if text is None else parse_bytes(text) for text in (knobs.reserve, knobs.host_memory)]
    assert [args.reserve, args.host_memory, args.interconnect] == [*around, knobs.interconnect]
    assert (args.model, args.device, args.output) == ("fake/odd[red]name", "auto", "runs/x y/plan.json")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (make_device(index=1), "--device 1"),
        (make_device(kind="cpu"), "--device cpu"),
        (make_device(source="profile", name="A100 80GB"), "--device 'A100 80GB'"),
        (make_device(source="memory", total_bytes=12 * GIB), "--memory 12884901888"),
        (None, "plan fake/llama-8b"),
    ],
)
def test_the_device_is_named_as_the_command_line_names_it(device: Device | None, words: str) -> None:
    assert words in plan_command(Choice(model=spec("fake/llama-8b"), device=device))


def test_choosing_anew_forgets_the_price_and_the_saved_plan() -> None:
    core = FakeCore()
    choice = Choice(model=spec("fake/llama-8b"), device=make_device())
    state = State(choice=choice, priced=core.price(choice), saved=SavedPlan(path="p", plan=make_plan()))
    assert why_not(state, "save_plan") is None
    anew = state.choosing(knobs=Knobs(rank=8))
    assert (anew.priced, anew.saved) == (None, None)
    assert why_not(anew, "save_plan") == "the price is being worked out"


def test_a_run_is_what_its_events_say() -> None:
    run = RunState(saved=SavedPlan(path="p", plan=make_plan()))
    for event in script(steps=3):
        assert run.under_way
        run = run.after(event)
    assert run.under_way
    run = run.ended()
    assert (run.status, run.losses, run.report) == ("done", (3.0, 1.5, 1.0), "runs/fake/report.json")
    nan = Step(time=1.0, step=1, max_steps=2, loss=float("nan"))
    assert RunState(saved=run.saved).after(nan).losses == ()
    stopped = RunState(saved=run.saved).after(Failed(time=1.0, message="stopped", interrupted=True))
    assert stopped.ended().status == "interrupted"
    waits = RunState(saved=run.saved).after(Paused(time=1.0, step=1))
    assert (waits.status, waits.under_way) == ("paused", True)
    assert waits.after(Resumed(time=2.0, step=1, paused_seconds=1.0)).status == "running"
    ends = RunState(saved=run.saved, status="stopping").after(Paused(time=1.0, step=1))
    assert ends.status == "stopping"


PLENTY = 10**15


class Line:
    """A model of a list."""

    def __init__(self, name: str, params: int) -> None:
        self.id, self.params = name, params


def price(sizes: dict[str, int], unpriced: frozenset[str] = frozenset()):  # type: ignore[no-untyped-def]
    """A price by table, on a card with 24 GiB."""

    def priced(model: str, method: str) -> Candidate:
        if model in unpriced:
            raise NoProgramError("no program")
        verdict = "fits" if sizes[model] <= 24 else "no"
        return make_candidate(verdict=verdict)

    return priced


def answer(steps: list[Largest]) -> list[str | None]:
    return [step.model for step in steps if step.done]


def test_the_largest_model_that_fits_is_the_answer_and_each_is_priced_once() -> None:
    models = [Line("small", 1), Line("big", 70), Line("middle", 8)]
    steps = list(largest(models, ("lora", "full"), price({"big": 140, "middle": 20, "small": 3}), PLENTY))
    assert answer(steps) == ["middle", "middle"]
    assert [(step.tried, step.of, step.done) for step in steps if step.method == "lora"] == [
        (1, 3, False), (2, 3, False), (2, 3, True),
    ]  # fmt: skip


def test_a_model_without_a_price_is_passed_over() -> None:
    models = [Line("big", 70), Line("middle", 8)]
    assert answer(list(largest(models, ("lora",), price({"middle": 20}, frozenset({"big"})), PLENTY))) == ["middle"]


def test_when_nothing_fits_the_answer_says_so() -> None:
    steps = list(largest([Line("big", 70)], ("lora",), price({"big": 140}), PLENTY))
    assert steps[-1] == Largest(method="lora", tried=1, of=1, done=True)


def test_a_model_whose_weights_alone_are_too_many_bytes_is_never_priced() -> None:
    models = [Line("70b", 70 * 10**9), Line("8b", 8 * 10**9), Line("3b", 3 * 10**9)]
    prices = price({"8b": 20, "3b": 20})
    assert answer(list(largest(models, ("qlora", "lora", "full"), prices, 24 * 10**9))) == ["8b", "8b", "3b"]
