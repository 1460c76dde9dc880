"""Solving for the largest value that fits: maximal whatever the regimes, and what the command prints."""

import json
import shlex
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_budget, make_candidate, make_device, make_model_spec
from tests.golden_text import assert_golden
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import solve as command
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import main
from vramplan.planner.resolve import Resolved
from vramplan.planner.solve import Solution, solve, stretches
from vramplan.planner.units import GIB, MIB


def candidate(*, fits: bool) -> Candidate:
    return make_candidate().model_copy(update={"verdict": "fits" if fits else "no"})


def solved(needs: list[int], limit: int, regimes: list[int]) -> Solution:
    """``needs[i]`` and ``regimes[i]`` are of the value i + 1."""
    return solve(
        "rank",
        lambda value: candidate(fits=needs[value - 1] <= limit),
        lambda value: regimes[value - 1],
        least=1,
        most=len(needs),
    )


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    """Needs that grow within each of some regimes, and the regimes."""
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    needs: list[int] = []
    for length in lengths:
        needs += sorted(draw(st.lists(st.integers(0, 40), min_size=length, max_size=length)))
    return needs, [index for index, length in enumerate(lengths) for _ in range(length)]


@given(programs(), st.integers(0, 40))
def test_the_answer_is_the_largest_that_fits(program: tuple[list[int], list[int]], limit: int) -> None:
    needs, regimes = program
    fitting = [value for value, need in enumerate(needs, start=1) if need <= limit]
    found = solved(needs, limit, regimes)
    assert found.value == max(fitting, default=None)
    if found.value is not None:
        assert found.candidate is not None
        assert found.candidate.verdict == "fits"
        assert (found.below is None) == (found.value == 1)
        assert (found.above is None) == (found.value == len(needs))
    if found.above is not None:
        assert found.above.verdict == "no"


@given(programs())
def test_stretches_cover_every_value_once_from_the_top(program: tuple[list[int], list[int]]) -> None:
    regimes = program[1]
    ends = list(stretches(lambda value: regimes[value - 1], 1, len(regimes)))
    assert [value for first, last in ends for value in range(last, first - 1, -1)] == [*range(len(regimes), 0, -1)]


def test_where_segments_round_back_the_value_above_is_found() -> None:
    # 5 and 6 need a segment more than 7 does
    assert solved([1, 2, 3, 4, 9, 9, 5, 9, 9, 9], 5, [0] * 10).value == 7


# ------------------------------------------------------------------ the command
@pytest.fixture
def prices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A MiB a token and row, on top of 4 GiB for qlora, 12 for lora and 30 for full."""

    def look_up(args: Any) -> subjects.Subject:
        return subjects.Subject(make_model_spec(), make_device(), "NVIDIA GeForce RTX 4090", True, None)

    def price(subject: subjects.Subject, resolved: Resolved, **_: bool) -> Candidate:
        setup, workload = resolved.setup, resolved.workload
        size = {"full": 30, "lora": 12, "qlora": 4}[setup.method.kind] * GIB
        size += 12 * MIB * setup.micro_batch_size * workload.sequence_length + MIB * getattr(setup.method, "r", 0)
        budget = make_budget(process_bytes=size, total_params=subject.model.total_params)
        return make_candidate(model=subject.model, setup=setup, workload=workload, device=subject.device, budget=budget)

    monkeypatch.setattr(subjects, "look_up", look_up)
    monkeypatch.setattr(subjects, "price", price)
    monkeypatch.setenv("COLUMNS", "100")


@pytest.mark.usefixtures("prices")
def test_the_three_rows_are_the_golden_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("estimate llama --solve sequence-length")) == 0
    assert_golden("solve.txt", capsys.readouterr().out)


@pytest.mark.usefixtures("prices")
def test_json_has_the_answer_and_its_neighbours(capsys: pytest.CaptureFixture[str]) -> None:
    # 23 GiB free, less 12, less 1 for the fake's upper figure, less 16 MiB for the rank: 10224 MiB at 12 MiB a token
    assert main(shlex.split("estimate llama --method lora --solve sequence-length --json")) == 0
    answer = json.loads(capsys.readouterr().out)
    (only,) = answer["solutions"]
    assert (answer["solve"], only["method"], only["value"], only["most"]) == ("sequence-length", "lora", 852, 2048)
    assert [only[name]["verdict"] for name in ("below", "candidate", "above")] == ["fits", "fits", "tight"]
    assert [only[name]["workload"]["sequence_length"] for name in ("below", "candidate", "above")] == [851, 852, 853]


@pytest.mark.usefixtures("prices")
def test_a_rank_is_no_larger_than_the_matrices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("estimate llama --method qlora --sequence-length 8 --solve rank")) == 0
    assert "--rank 64 is the largest that fits, and the largest that makes sense" in capsys.readouterr().out


@pytest.mark.usefixtures("prices")
def test_a_method_without_the_option_is_left_out_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split("estimate llama --sequence-length 8 --solve rank")) == 0
    output = capsys.readouterr().out
    assert "full: not priced here: --rank belongs to an adapter" in output
    assert "lora: --rank 64 is the largest that fits" in output


@pytest.mark.usefixtures("prices")
@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("estimate llama --method full --solve sequence-length", 1, "not even --sequence-length 2 fits"),
        ("estimate llama --rank 8 --solve rank", 2, "leave --rank out"),
        ("estimate llama --method full --solve rank", 2, "--method full has none"),
        ("estimate llama --solve alpha", 2, "choose from sequence-length, micro-batch, rank"),
    ],
)
def test_what_cannot_be_solved_is_said(line: str, code: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)) == code
    output = capsys.readouterr()
    assert words in " ".join((output.out + output.err).split())


def test_without_a_device_there_is_nothing_to_fit_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nowhere = subjects.Subject(make_model_spec(), None, "no device here", False, None)
    monkeypatch.setattr(subjects, "look_up", lambda args: nowhere)
    assert main(shlex.split("estimate llama --solve rank")) == 2
    assert "--memory 24GiB" in capsys.readouterr().err


@pytest.mark.parametrize(("flag", "given"), [("micro_batch", {"sequence_length": 512}), ("sequence_length", {})])
def test_on_a_real_model_the_answer_fits_and_one_more_does_not(flag: str, given: dict[str, Any]) -> None:
    card = make_device(total_bytes=6 * GIB, free_bytes=6 * GIB)
    subject = subjects.Subject(resolve_model("Qwen/Qwen2.5-0.5B", online=False), card, "", True, None)
    found = command._solve(flag, {"method": "lora", **given}, subject).solution
    assert found.value is not None
    assert found.candidate is not None
    assert found.candidate.headroom_bytes is not None
    assert found.candidate.headroom_bytes >= 0
    assert found.above is not None
    assert found.above.verdict != "fits"
    # what is allocated grows with the value, so the neighbours' peaks are in order
    peaks = [each.budget.peak_allocated_bytes for each in (found.below, found.candidate, found.above) if each]
    assert peaks == sorted(peaks)
