"""Two plans beside each other: what differs is named, what identifies the file is not."""

from datetime import UTC, datetime

from tests.fakes import make_budget, make_candidate, make_plan
from vramplan.planner.plan_diff import differences
from vramplan.planner.units import GIB


def test_the_same_choice_made_twice_does_not_differ() -> None:
    one = make_plan()
    assert differences(one, one.model_copy(update={"created_at": datetime(2030, 1, 1, tzinfo=UTC)})) == ()


def test_an_option_and_the_estimate_that_follows_from_it_are_named() -> None:
    mine, theirs = make_plan(), make_plan(candidate=make_candidate(budget=make_budget(process_bytes=20 * GIB)))
    theirs = theirs.model_copy(update={"setup": theirs.setup.model_copy(update={"micro_batch_size": 7})})
    found = {each.name: (each.mine, each.theirs) for each in differences(mine, theirs)}
    assert found["setup.micro_batch_size"] == ("1", "7")
    assert found["process"] == ("12.00 GiB", "20.00 GiB")
    assert "model" not in found


def test_what_only_one_of_them_has_is_a_dash_on_the_other_side() -> None:
    mine = make_plan()
    found = differences(mine.model_copy(update={"device": None}), mine)
    assert [(each.name, each.mine) for each in found] == [("device", "–")]
