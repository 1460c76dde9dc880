"""Ranking over several GPUs: how they share the work is chosen too, and nothing is lost by not pricing every setup."""

import random
from typing import Any

import pytest

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.profiles import match_profile
from vramplan.planner.adapters.programs import known_program
from vramplan.planner.candidate import Candidate
from vramplan.planner.cluster import Cluster, with_own_link
from vramplan.planner.device import Device
from vramplan.planner.estimate import estimate
from vramplan.planner.merits import Known, Merits, speed_of
from vramplan.planner.objectives import Objectives
from vramplan.planner.rank_bounds import RankBounds
from vramplan.planner.recommend import recommend
from vramplan.planner.recommendation import Recommendation
from vramplan.planner.resolve import Resolved
from vramplan.planner.space import Subject, space_of
from vramplan.planner.suggest import suggest_rank

SMALL = "Qwen/Qwen2.5-0.5B"


def subject_of(model: str, product: str) -> Subject:
    device, _ = resolve_device(product, memory_bytes=None, reserve_bytes=0)
    return Subject(resolve_model(model, online=False), device)


def bounds_of(subject: Subject, product: str) -> RankBounds:
    profile = match_profile(product)[0]
    cluster = with_own_link(Cluster(), profile)
    return RankBounds(
        subject.model, subject.device, lambda key: known_program(key).program, profile=profile, cluster=cluster
    )


def priced(subject: Subject, resolved: Resolved) -> Candidate:
    return estimate(
        subject.model, resolved.workload, resolved.setup, subject.device, programs=known_program, with_tensors=False
    )


def answer(model: str, product: str, *, prefer: Any = ("quality",), **given: Any) -> Recommendation:
    subject = subject_of(model, product)
    return recommend(
        subject.model,
        subject.device,
        given,
        lambda resolved: priced(subject, resolved),
        objectives=Objectives(prefer=prefer),
        bounds=bounds_of(subject, product),
    )


def shared(candidate: Candidate) -> tuple[str, str, str]:
    return candidate.setup.method.kind, candidate.setup.sharding, candidate.setup.offload


def test_what_fits_one_card_is_copied_to_each_and_keeps_its_checkpoints() -> None:
    first = answer("meta-llama/Llama-3.1-8B", "RTX 4090", gpus=8, method="lora").ranked[0]
    # 8.03 B weights of 2 bytes: 14.96 GiB of 23.64 on every card. ZeRO would save the optimizer's 0.3 GiB.
    assert shared(first) == ("lora", "ddp", "none")
    assert first.verdict == "fits"


def test_weights_no_two_cards_hold_are_kept_by_the_host() -> None:
    # 70.55 B weights of 2 bytes are 131.4 GiB: two halves of 65.7 on cards of 23.64; in 4 bits still 2 x 18 and more.
    found = answer("meta-llama/Llama-3.1-70B", "RTX 4090", gpus=2, method="lora", micro_batch=1)
    assert [shared(each) for each in found.ranked] == [("lora", "fsdp", "all")]
    assert [(shared(each.candidate)[1:], each.would_fit) for each in found.rejected] == [
        (("fsdp", "none"), "--sharding fsdp --offload all")
    ]


def test_what_was_asked_for_is_not_varied() -> None:
    found = answer(SMALL, "RTX 4090", gpus=2, sharding="zero3", method="full")
    assert {shared(each)[1] for each in found.ranked} == {"zero3"}
    assert {shared(each.candidate)[1] for each in found.front} == {"zero3"}


@pytest.mark.parametrize("devices", [{"gpus": 2}, {"gpus": 8, "nodes": 2}])
def test_a_bound_is_never_above_the_price_of_a_rank_and_the_time_is_the_price_s_own(devices: dict[str, int]) -> None:
    subject = subject_of(SMALL, "A100 80GB")
    bounds = bounds_of(subject, "A100 80GB")
    cells = space_of(devices, subject, 16).cells
    ways = {(cell.setup.sharding, cell.setup.offload) for cell in cells}
    assert ways >= {("ddp", "none"), ("zero2", "none"), ("zero3", "none"), ("fsdp", "all")}
    for cell in random.Random(3).sample(cells, 12):
        static, allocated = bounds.static(cell), bounds.allocated(cell)
        candidate = priced(subject, subject.resolve(cell.given))
        assert static.process_bytes <= allocated.process_bytes <= candidate.budget.process_bytes
        assert allocated.high_process_bytes <= candidate.budget.high_process_bytes
        assert bounds.time(cell) == candidate.time


@pytest.mark.parametrize("prefer", [("quality",), ("memory",), ("speed", "memory")])
@pytest.mark.parametrize(("product", "method"), [("RTX 4090", "full"), ("RTX 4060", "lora")])
def test_the_answer_is_the_one_that_pricing_every_setup_gives(product: str, method: str, prefer: Any) -> None:
    subject, given = subject_of(SMALL, product), {"gpus": 2, "method": method, "tokens_per_step": 4096}
    rank = suggest_rank("moderate", None, None)
    merits = Merits(subject.model, subject.device, Objectives(prefer=prefer), rank=rank.rank, data=rank.data)
    keys = []
    for cell in space_of(given, subject, rank.rank).cells:
        found = priced(subject, subject.resolve(cell.given))
        if found.verdict != "no":
            known = Known(found.budget.high_process_bytes, found.verdict == "tight", speed_of(found.time))
            keys.append((merits.key(cell, known), cell.setup))
    best = min(keys, key=lambda each: each[0])[1]
    assert answer(SMALL, product, prefer=prefer, **given).ranked[0].setup == best


def test_a_method_that_is_priced_under_ddp_alone_is_taken_to_be_under_it() -> None:
    subject = subject_of(SMALL, "RTX 4090")
    assert subject.resolve({"gpus": 2, "method": "ia3"}).setup.sharding == "ddp"
    assert subject.resolve({"gpus": 2, "method": "lora"}).setup.sharding == "fsdp"


def test_a_device_without_known_rates_has_no_time() -> None:
    subject = subject_of(SMALL, "RTX 4090")
    bare: Device | None = subject.device
    bounds = RankBounds(subject.model, bare, lambda key: known_program(key).program)
    assert bounds.time(space_of({"gpus": 2}, subject, 16).cells[0]) is None
