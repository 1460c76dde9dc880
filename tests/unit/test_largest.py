"""The largest models a card can tune, of three that are in the catalogue, at their real prices."""

import pytest

from tests.fakes import make_device
from vramplan.planner.adapters import models
from vramplan.planner.adapters.catalogue import entries
from vramplan.planner.cli.largest import largest_on
from vramplan.planner.largest import Largest
from vramplan.planner.units import GIB

NAMES = ("Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B")


@pytest.fixture
def three_models(monkeypatch: pytest.MonkeyPatch) -> None:
    few = [entry for entry in entries() if entry.id in NAMES]
    assert len(few) == 3
    monkeypatch.setattr(models, "search_models", lambda text, limit: few)


def answers(memory_gib: int) -> dict[str, Largest]:
    device = make_device(total_bytes=memory_gib * GIB, free_bytes=None)
    return {found.method: found for found in largest_on(device, {"sequence_length": 512}) if found.done}


@pytest.mark.usefixtures("three_models")
def test_a_card_of_24_gib_tunes_half_a_billion_in_full_and_eight_by_adapters() -> None:
    # 70B in 4 bits is 35 GB of weights, 8B in full 16 GB each of weights and of gradients: neither is even priced
    found = answers(24)
    assert {method: answer.model for method, answer in found.items()} == {
        "full": "Qwen/Qwen2.5-0.5B",
        "lora": "meta-llama/Llama-3.1-8B",
        "qlora": "meta-llama/Llama-3.1-8B",
    }
    assert {method: answer.of for method, answer in found.items()} == {"full": 1, "lora": 2, "qlora": 2}
    assert all(answer.candidate is not None and answer.candidate.verdict == "fits" for answer in found.values())


@pytest.mark.usefixtures("three_models")
def test_a_card_that_holds_none_of_them_is_told_so() -> None:
    assert [(answer.model, answer.candidate) for answer in answers(1).values()] == [(None, None)] * 3
