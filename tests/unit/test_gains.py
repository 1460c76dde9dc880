"""What more GPUs gain: the same tokens a step over 1, 2, 4 and 8, beside the fewest that are enough."""

import json
from typing import Any

import pytest

from tests.fakes import make_candidate
from vramplan.planner.cli.main import main
from vramplan.planner.errors import UnsupportedError
from vramplan.planner.gains import gains

ASKED = ["estimate", "meta-llama/Llama-3.1-8B", "--sequence-length", "1024", "--micro-batch", "1"]


def asked(capsys: pytest.CaptureFixture[str], *more: str) -> list[dict[str, Any]]:
    main([*ASKED, "--solve", "gpus", "--json", *more])
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["gains"]
    return found


def test_full_training_of_8b_is_sharded_where_a_copy_on_each_would_be_tight(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = asked(capsys, "--method", "full", "--device", "A100 80GB", "--price", "2")
    assert [row["gpus"] for row in rows] == [1, 2, 4, 8]
    setups = [row["estimate"]["setup"] for row in rows]
    assert [setup["sharding"] for setup in setups] == ["none", "fsdp", "fsdp", "fsdp"]
    assert {setup["gpus"] * setup["gradient_accumulation_steps"] for setup in setups} == {16}
    assert rows[0]["speedup"] == 1
    for row in rows:
        assert row["estimate"]["verdict"] == "fits"
        assert 0.5 * row["over_gpus"] < row["speedup"] <= row["over_gpus"]
    dear = [row["usd_per_million_tokens"] for row in rows]
    assert dear[-1] > dear[0]
    # two dollars an hour of each of eight GPUs, for as long as a million tokens take
    rate = rows[-1]["estimate"]["time"]["tokens_per_second"]["typical"]
    assert dear[-1] == pytest.approx(8 * 2 / 3600 * 1e6 / rate)


def test_what_is_too_small_gains_nothing_and_the_fewest_that_are_enough_are_the_measure(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = asked(capsys, "--method", "full", "--device", "RTX 4090")
    verdicts = [row["estimate"]["verdict"] for row in rows]
    assert verdicts[0] == "no"
    assert rows[0]["speedup"] is None
    enough = [row for row in rows if row["estimate"]["verdict"] != "no"]
    assert [row["over_gpus"] for row in enough] == [row["gpus"] / enough[0]["gpus"] for row in enough]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--method", "lora", "--device", "RTX 4090", "--gpus", "2"], "looks for --gpus, which is given"),
        (["--device", "RTX 4090"], "needs a method"),
        (["--method", "lora", "--device", "cpu"], "needs a GPU"),
    ],
)
def test_what_cannot_be_asked_is_refused(more: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*ASKED, "--solve", "gpus", *more]) == 2
    assert words in capsys.readouterr().err


def test_a_number_without_a_price_says_why_and_none_at_all_is_an_error() -> None:
    def price(count: int) -> Any:
        if count > 1:
            raise UnsupportedError("not priced yet")
        return make_candidate()

    assert [each.unpriced_because for each in gains(price, (1, 2))] == [None, "not priced yet"]
    with pytest.raises(UnsupportedError, match="not priced yet"):
        gains(price, (2, 4))
