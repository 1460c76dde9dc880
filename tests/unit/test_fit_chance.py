"""P(fits), against the published runs it is read from."""

import json
from pathlib import Path

import pytest

from benchmarks.fit_errors import MODULE, RESULTS, module_text
from tests.fakes import make_candidate, make_cpu, make_device
from vramplan.planner.candidate import Candidate
from vramplan.planner.fit_chance import fit_chance
from vramplan.planner.measured_errors import RATIOS


def candidate(available_bytes: int | None) -> Candidate:
    """The made-up candidate, with so much there."""
    changes = {"available_bytes": available_bytes, "device": make_device(), "verdict": "fits"}
    return make_candidate().model_copy(update=changes)


def test_the_errors_are_those_of_the_published_runs() -> None:
    rows = json.loads(Path(RESULTS).read_text(encoding="utf-8"))
    assert MODULE.read_text(encoding="utf-8") == module_text(rows), "python -m benchmarks.fit_errors"


def test_the_share_of_runs_whose_error_would_fit_is_the_chance() -> None:
    process = make_candidate().budget.process_bytes
    enough = fit_chance(candidate(process * 3))
    exactly = fit_chance(candidate(process))
    # with three times the memory all fitted; with the estimate alone those that took no more than it
    assert enough == (len(RATIOS) + 1) / (len(RATIOS) + 2)
    assert exactly == pytest.approx((sum(ratio <= 1 for ratio in RATIOS) + 1) / (len(RATIOS) + 2))
    assert 0.4 < exactly < 0.6  # the estimate is a middle figure


def test_more_memory_never_makes_it_less_likely() -> None:
    process = make_candidate().budget.process_bytes
    chances = [fit_chance(candidate(process * part // 20)) or 0.0 for part in range(10, 50)]
    assert chances == sorted(chances)
    assert 0 < chances[0] < 0.05


def test_there_is_none_without_a_device_or_on_a_processor() -> None:
    assert fit_chance(candidate(None)) is None
    assert fit_chance(candidate(2**40).model_copy(update={"device": make_cpu()})) is None
