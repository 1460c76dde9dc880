"""Ranking: what fits first, LoRA before the rest unless the data asks for more, and a way out for what does not fit."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes import make_budget, make_candidate, make_cpu, make_device, make_model_spec
from vramplan.planner.candidate import Candidate, Recommendation
from vramplan.planner.device import Device
from vramplan.planner.errors import NoProgramError, UnsupportedError, UsageError
from vramplan.planner.reasons import data_size
from vramplan.planner.recommend import Price, recommend
from vramplan.planner.resolve import Resolved
from vramplan.planner.units import GIB

MODEL = make_model_spec()
BASE = {"full": 40, "lora": 16, "qlora": 6}


def prices(device: Device | None, base: Mapping[str, int] = BASE, *, unpriced: tuple[str, ...] = ()) -> Price:
    """GiB: the method's base, + 8 without checkpointing at 1024 tokens and micro batch 1, - 15 for 8-bit states."""

    def price(resolved: Resolved) -> Candidate:
        setup, workload = resolved.setup, resolved.workload
        if setup.method.kind in unpriced:
            raise NoProgramError(f"no memory program for {setup.method.kind}", remedy="trace it")
        per_token = 2 if setup.gradient_checkpointing else 8
        dynamic = per_token * setup.micro_batch_size * workload.sequence_length * GIB // 1024
        size = base[setup.method.kind] * GIB + dynamic - (15 * GIB if "8bit" in setup.optimizer else 0)
        budget = make_budget(process_bytes=size, total_params=MODEL.total_params)
        return make_candidate(model=MODEL, setup=setup, workload=workload, device=device, budget=budget)

    return price


def recommended(device: Device | None = None, num_examples: int | None = None, **given: Any) -> Recommendation:
    return recommend(MODEL, device, given, prices(device), num_examples=num_examples)


def names(recommendation: Recommendation) -> list[tuple[str, bool]]:
    return [(c.setup.method.kind, c.setup.gradient_checkpointing) for c in recommendation.ranked]


def with_free(gib: float) -> Device:
    return make_device(total_bytes=80 * GIB, free_bytes=int(gib * GIB))


def test_without_data_lora_comes_first_where_it_fits() -> None:
    # LoRA: 16 + 8 = 24 up to 25 without checkpointing; 16 + 2 = 18 up to 19 with it.
    answer = recommended(with_free(25))
    assert names(answer)[:2] == [("lora", False), ("lora", True)]
    assert names(recommended(with_free(20)))[0] == ("lora", True)
    assert names(recommended(with_free(15)))[0] == ("qlora", False)


def test_what_fits_comes_before_what_is_tight() -> None:
    answer = recommended(with_free(18.5))
    verdicts = [candidate.verdict for candidate in answer.ranked]
    assert verdicts == sorted(verdicts)  # "fits" < "tight"
    assert names(answer)[-1] == ("lora", True)
    assert answer.reasons[-1][0] == "tight: 18.00 GiB expected, up to 19.00 GiB of 18.50 GiB"


def test_on_a_card_that_is_not_here_what_leaves_room_for_a_desktop_comes_first() -> None:
    # LoRA needs up to 25 GiB without checkpointing and 19 with it.
    profile = make_device(source="profile", total_bytes=26 * GIB, free_bytes=None)
    answer = recommended(profile)
    assert names(answer)[0] == ("lora", True)
    thin = next(reasons for reasons in answer.reasons if "less than a desktop may take" in reasons[0])
    assert thin[0].startswith("fits with 1.00 GiB to spare")
    assert names(recommended(with_free(26)))[0] == ("lora", False)


def test_full_fine_tuning_comes_first_when_the_data_may_hold_more_than_an_adapter_can_learn() -> None:
    # The fake's adapter trains 37,376 parameters: about 2 x 37,376 tokens' worth, 72 rows of 1024.
    assert names(recommended(with_free(70), num_examples=72))[0][0] == "lora"
    large = recommended(with_free(70), num_examples=74)
    assert names(large)[0][0] == "full"
    assert any("arXiv:2404.05405" in reason for reason in large.reasons[0])


def test_the_adapters_of_a_7b_model_hold_what_the_alpaca_set_teaches() -> None:
    # LoRA r=16 on every linear of Llama-2-7B trains 39,976,960 parameters; Alpaca has 52,002 rows (Taori et al., 2023).
    assert data_size(52_002 * 512, 39_976_960) == "small"


def test_every_ranked_setup_says_why() -> None:
    answer = recommended(with_free(70))
    assert len(answer.reasons) == len(answer.ranked)
    assert all(len(reasons) >= 3 for reasons in answer.reasons)
    assert "fits with 45.00 GiB to spare" in answer.reasons[0]
    assert any("no checkpointing: 6.00 GiB more" in reason for reason in answer.reasons[0])


def test_the_rejected_lack_so_many_bytes_and_one_change_would_help() -> None:
    answer = recommended(with_free(20), method="lora")
    assert [(r.lacks_bytes, r.would_fit) for r in answer.rejected] == [(5 * GIB, "--gradient-checkpointing")]


def test_a_smaller_micro_batch_helps_where_that_is_all_it_takes() -> None:
    # 16 + 4 x 2 = 24 up to 25; at micro batch 1: 18 up to 19.
    answer = recommended(with_free(20), method="lora", micro_batch=4, gradient_checkpointing=True)
    assert [(r.candidate.setup.micro_batch_size, r.would_fit) for r in answer.rejected] == [(4, "--micro-batch 1")]
    assert [c.setup.gradient_accumulation_steps for c in answer.ranked] == [16]


def test_an_8_bit_optimizer_helps_full_fine_tuning() -> None:
    # 40 + 2 = 42 up to 43; with 8-bit states 27 up to 28.
    answer = recommended(with_free(30), method="full", gradient_checkpointing=True)
    assert [r.would_fit for r in answer.rejected] == ["--optimizer adamw_8bit"]


def test_a_shorter_sequence_helps_where_nothing_else_does() -> None:
    # At 1024 tokens 18 up to 19 GiB; at 512 17 up to 18.
    answer = recommended(with_free(18), method="lora", gradient_checkpointing=True)
    assert answer.ranked[0].verdict == "tight"
    answer = recommended(with_free(17.9), method="lora", gradient_checkpointing=True)
    assert [r.would_fit for r in answer.rejected] == ["--sequence-length 256"]


def test_qlora_helps_where_it_fits_and_else_the_size_of_a_device_that_would() -> None:
    answer = recommended(with_free(10))
    full = [r for r in answer.rejected if r.candidate.setup.method.kind == "full"]
    assert {r.would_fit for r in full} == {"--method qlora"}
    nothing = recommended(with_free(2))
    assert nothing.ranked == ()
    qlora = {r.would_fit for r in nothing.rejected if r.candidate.setup.method.kind == "qlora"}
    assert qlora == {"a device with 9 GiB free", "a device with 15 GiB free"}


def test_without_a_device_nothing_is_rejected() -> None:
    answer = recommended()
    assert answer.rejected == ()
    assert {candidate.verdict for candidate in answer.ranked} == {None}


def test_what_was_given_is_not_varied() -> None:
    answer = recommended(with_free(70), method="full", optimizer="sgd", gradient_checkpointing=True)
    assert [(c.setup.optimizer, c.setup.gradient_checkpointing) for c in answer.ranked] == [("sgd", True)]


def test_a_fixed_accumulation_keeps_the_sequences_of_a_step_at_micro_batch_1() -> None:
    answer = recommended(
        with_free(70), method="lora", micro_batch=4, gradient_accumulation_steps=3, gradient_checkpointing=True
    )
    assert {c.workload.sequences_per_step for c in answer.ranked} == {12}


def test_a_method_nobody_can_price_is_named_and_the_others_are_ranked() -> None:
    device = with_free(70)
    answer = recommend(MODEL, device, {}, prices(device, unpriced=("qlora",)))
    assert answer.unpriced == ("qlora: no memory program for qlora",)
    assert {candidate.setup.method.kind for candidate in answer.ranked} == {"lora", "full"}
    with pytest.raises(NoProgramError):
        recommend(MODEL, device, {}, prices(device, unpriced=("full", "lora", "qlora")))


def test_a_mistake_or_an_unpriced_method_is_not_ranked_around() -> None:
    with pytest.raises(UsageError, match="--rank 0"):
        recommended(make_cpu(), rank=0)
    with pytest.raises(UnsupportedError, match="--method two-stage is not priced yet"):
        recommended(make_cpu(), method="two-stage")
