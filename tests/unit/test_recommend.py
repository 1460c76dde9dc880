"""Ranking: what fits first, by evidence and what a person prefers, and a way out for what does not fit."""

import random
from collections.abc import Mapping
from typing import Any

import pytest

from tests.fakes import make_budget, make_candidate, make_cpu, make_device, make_model_spec
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.profiles import match_profile
from vramplan.planner.adapters.programs import known_program
from vramplan.planner.bounds import Bounds
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device
from vramplan.planner.errors import NoProgramError, UsageError
from vramplan.planner.estimate import estimate
from vramplan.planner.merits import Known, Merits, speed_of
from vramplan.planner.objectives import Objectives
from vramplan.planner.recommend import Price, recommend
from vramplan.planner.recommendation import Recommendation
from vramplan.planner.resolve import Resolved
from vramplan.planner.search import best_first, front
from vramplan.planner.space import Cell, Subject, space_of
from vramplan.planner.suggest import suggest_rank
from vramplan.planner.units import GIB

MODEL = make_model_spec()
LARGE = MODEL.model_copy(
    update={"weights": tuple(w.model_copy(update={"shape": (w.shape[0] * 10**6, *w.shape[1:])}) for w in MODEL.weights)}
)
"""A model that is not small, priced by the fake alone."""
BASE = {"full": 40, "lora": 16, "qlora": 6}


def prices(device: Device | None, base: Mapping[str, int] = BASE, *, unpriced: tuple[str, ...] = ()) -> Price:
    """GiB: the method's base, + 8 without checkpointing at 1024 tokens and micro batch 1, - 15 for 8-bit states."""

    def price(resolved: Resolved) -> Candidate:
        setup, workload = resolved.setup, resolved.workload
        if setup.method.kind in unpriced or setup.method.kind not in base:
            raise NoProgramError(f"no memory program for {setup.method.kind}", remedy="trace it")
        per_token = 2 if setup.gradient_checkpointing else 8
        dynamic = per_token * setup.micro_batch_size * workload.sequence_length * GIB // 1024
        size = base[setup.method.kind] * GIB + dynamic - (15 * GIB if "8bit" in setup.optimizer else 0)
        budget = make_budget(process_bytes=max(size, GIB), total_params=MODEL.total_params)
        return make_candidate(model=MODEL, setup=setup, workload=workload, device=device, budget=budget)

    return price


def recommended(device: Device | None = None, *, objectives: Objectives | None = None, **given: Any) -> Recommendation:
    given = {"micro_batch": 1, "optimizer": "adamw_torch_fused", "loss": "fused", "mixed_precision": "bf16"} | given
    return recommend(LARGE, device, given, prices(device), objectives=objectives)


def product(name: str) -> Device:
    device, _ = resolve_device(name, memory_bytes=None, reserve_bytes=0)
    assert device is not None
    return device


def names(recommendation: Recommendation) -> list[tuple[str, bool]]:
    return [(c.setup.method.kind, c.setup.gradient_checkpointing) for c in recommendation.ranked]


def with_free(gib: float) -> Device:
    return make_device(total_bytes=80 * GIB, free_bytes=int(gib * GIB))


def test_lora_comes_first_where_it_fits_and_then_qlora() -> None:
    # LoRA: 16 + 2 = 18 up to 19 as asked; QLoRA 6 + 2 = 8 up to 9; full 40 + 2 = 42 up to 43.
    assert names(recommended(with_free(50))) == [("lora", True), ("full", True), ("qlora", True)]
    assert names(recommended(with_free(20))) == [("lora", True), ("qlora", True)]
    assert names(recommended(with_free(15))) == [("qlora", True)]


def test_what_fits_comes_before_what_is_tight() -> None:
    answer = recommended(with_free(18.5))
    assert [(c.setup.method.kind, c.verdict) for c in answer.ranked] == [("qlora", "fits"), ("lora", "tight")]
    assert answer.reasons[-1][0] == "tight: 18.00 GiB expected, up to 19.00 GiB of 18.50 GiB"


def test_a_card_that_may_drive_a_display_keeps_room_for_it_and_one_of_a_datacenter_does_not() -> None:
    # LoRA needs up to 19 GiB with checkpointing, of 20: 1 GiB is less than a desktop may take.
    profile = make_device(source="profile", total_bytes=20 * GIB, free_bytes=None, form_factor="desktop")
    answer = recommended(profile)
    assert names(answer) == [("qlora", True), ("lora", True)]
    assert answer.reasons[1][0] == "fits with 1.00 GiB to spare, less than a desktop may take (--reserve)"
    datacenter = profile.model_copy(update={"form_factor": "datacenter"})
    assert names(recommended(datacenter))[0] == ("lora", True)


def test_what_a_person_prefers_comes_first() -> None:
    least = recommended(with_free(50), objectives=Objectives(prefer=("memory",)))
    assert names(least)[0] == ("qlora", True)
    knows = recommended(with_free(50), objectives=Objectives(keep_knowledge=True))
    assert [c.setup.method.kind for c in knows.ranked] == ["lora", "qlora", "full"]
    assert any("forgets more" in reason for reason in knows.reasons[2])


def test_several_tasks_on_one_base_rule_full_fine_tuning_out() -> None:
    answer = recommended(with_free(50), objectives=Objectives(num_tasks=3))
    assert "full" not in {c.setup.method.kind for c in answer.ranked}
    assert "full changes the base: 3 tasks would be 3 models" in answer.ruled_out
    assert any("3 tasks share one base" in reason for reason in answer.reasons[0])


def test_what_cannot_be_merged_or_is_too_slow_is_ruled_out() -> None:
    merged = recommended(with_free(50), objectives=Objectives(must_merge=True)).ruled_out
    assert {why.partition(" ")[0] for why in merged} == {"adapter", "prefix", "prompt", "ptuning"}
    # Hu et al. measured 30.3 % more for Houlsby's bottlenecks.
    quick = recommended(with_free(50), objectives=Objectives(latency_budget=0.25)).ruled_out
    assert [why.partition(" ")[0] for why in quick] == ["adapter"]


def test_full_fine_tuning_comes_first_when_the_data_may_hold_more_than_an_adapter_can_learn() -> None:
    answer = recommend(MODEL, with_free(70), {"micro_batch": 1}, prices(with_free(70)), num_examples=10_000_000)
    assert answer.ranked[0].setup.method.kind == "full"


def test_the_adapters_of_a_7b_model_hold_what_the_alpaca_set_teaches() -> None:
    # LoRA r=16 on every linear of Llama-2-7B trains 39,976,960 parameters; Alpaca has 52,002 rows (Taori et al., 2023).
    assert suggest_rank("moderate", 52_002 * 512, 39_976_960 // 16).data == "small"
    assert suggest_rank("complex", 52_002 * 512, 39_976_960 // 16).rank == 32


def test_the_rejected_lack_so_many_bytes_and_the_smallest_change_would_help() -> None:
    answer = recommended(with_free(20), method="lora", gradient_checkpointing=False)
    assert [(r.lacks_bytes, r.would_fit) for r in answer.rejected] == [(5 * GIB, "--sequence-length 256")]
    # 16 + 4 x 2 = 24 up to 25; at micro batch 1: 18 up to 19.
    answer = recommended(with_free(20), method="lora", micro_batch=4, gradient_checkpointing=True)
    assert [(r.candidate.setup.micro_batch_size, r.would_fit) for r in answer.rejected] == [(4, "--micro-batch 1")]
    assert [c.setup.gradient_accumulation_steps for c in answer.ranked] == [16]
    # 40 + 2 = 42 up to 43; with 8-bit states 27 up to 28.
    answer = recommended(with_free(30), method="full", gradient_checkpointing=True, optimizer=None)
    assert [r.would_fit for r in answer.rejected] == ["--optimizer adamw_8bit"]


def test_another_method_helps_where_one_fits_and_else_the_size_of_a_device_that_would() -> None:
    answer = recommended(with_free(10))
    assert {r.would_fit for r in answer.rejected} == {"--method qlora"}
    nothing = recommended(with_free(2))
    assert nothing.ranked == ()
    qlora = {r.would_fit for r in nothing.rejected if r.candidate.setup.method.kind == "qlora"}
    assert qlora == {"a device with 9 GiB free"}


def test_without_a_device_nothing_is_rejected() -> None:
    answer = recommended()
    assert answer.rejected == ()
    assert {candidate.verdict for candidate in answer.ranked} == {None}


def test_what_was_given_is_not_varied() -> None:
    answer = recommended(with_free(70), method="full", optimizer="sgd", gradient_checkpointing=True)
    assert [(c.setup.optimizer, c.setup.gradient_checkpointing) for c in answer.ranked] == [("sgd", True)]


def test_a_fixed_accumulation_keeps_the_sequences_of_a_step_at_micro_batch_1() -> None:
    space = space_of({"method": "lora", "micro_batch": 4, "gradient_accumulation_steps": 3}, Subject(MODEL, None), 16)
    assert {cell.workload.sequences_per_step for cell in space.cells} == {12}


def test_a_method_nobody_can_price_is_named_and_the_others_are_ranked() -> None:
    device = with_free(70)
    answer = recommend(MODEL, device, {"micro_batch": 1}, prices(device, unpriced=("qlora",)))
    assert "qlora: no memory program for qlora" in answer.unpriced
    assert {candidate.setup.method.kind for candidate in answer.ranked} == {"lora", "full"}
    with pytest.raises(NoProgramError):
        recommend(MODEL, device, {"micro_batch": 1}, prices(device, unpriced=("full", "lora", "qlora")))


def test_a_mistake_or_an_unpriced_method_is_not_ranked_around() -> None:
    with pytest.raises(UsageError, match="--rank 0"):
        recommend(MODEL, make_cpu(), {"rank": 0}, prices(make_cpu()))
    with pytest.raises(UsageError, match="--method two-stage is two setups"):
        recommend(MODEL, make_cpu(), {"method": "two-stage"}, prices(make_cpu()))


def test_every_cell_is_what_its_options_resolve_to() -> None:
    device = product("RTX 4090")
    subject = Subject(resolve_model("meta-llama/Llama-3.2-1B", online=False), device)
    space = space_of({"tokens_per_step": 17 * 1024}, subject, 32)
    assert len({(cell.setup, cell.workload) for cell in space.cells}) == len(space.cells) > 2000
    for cell in random.Random(0).sample(space.cells, 150):
        resolved = subject.resolve(cell.given)
        assert (resolved.setup, resolved.workload) == (cell.setup, cell.workload), cell.given


def test_a_bound_is_never_above_the_price_and_the_time_is_the_price_s_own() -> None:
    device = product("RTX 4090")
    subject = Subject(resolve_model("Qwen/Qwen2.5-0.5B", online=False), device)
    bounds = Bounds(
        subject.model, device, lambda key, _: known_program(key).program, profile=match_profile("RTX 4090")[0]
    )
    priced = 0
    for cell in random.Random(1).sample(space_of({}, subject, 16).cells, 40):
        try:
            static, allocated = bounds.static(cell), bounds.allocated(cell)
        except NoProgramError:
            continue
        candidate = estimate(subject.model, cell.workload, cell.setup, device, with_tensors=False)
        assert static.process_bytes <= allocated.process_bytes <= candidate.budget.process_bytes
        assert allocated.high_process_bytes <= candidate.budget.high_process_bytes
        assert bounds.time(cell) == candidate.time
        priced += 1
    assert priced > 5


def test_the_search_finds_the_least_of_all_keys_however_little_was_asked() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        true = [(draw.randint(0, 3), draw.randint(0, 99)) for _ in range(draw.randint(1, 120))]
        loose = [(first - draw.randint(0, 2), 0) for first, _ in true]
        out = {number for number in range(len(true)) if draw.random() < 0.3}

        def known(number: int, out: set[int] = out, true: list[Any] = true) -> Any:
            return None if number in out else true[number]

        found = [each.item for each in best_first(range(len(true)), [loose.__getitem__, known])]
        assert found == sorted(set(range(len(true))) - out, key=lambda number: (true[number], number))


def test_a_front_has_what_none_beats() -> None:
    for seed in range(50):
        draw = random.Random(seed)
        points = [(draw.randint(0, 9), draw.randint(0, 9), draw.randint(0, 2)) for _ in range(60)]
        kept = front(points, lambda point: point)
        for point in points:
            beaten = any(other != point and all(a <= b for a, b in zip(other, point, strict=True)) for other in points)
            assert (point in kept) == (not beaten)


class Wasteful:
    """Prices above their bounds by what an allocator might waste, drawn anew for each setup."""

    def __init__(self, subject: Subject, bounds: Bounds, seed: int) -> None:
        self.subject, self.bounds, self.seed = subject, bounds, seed

    def __call__(self, resolved: Resolved) -> Candidate:
        cell = Cell({}, resolved.workload, resolved.setup, ())
        least, time = self.bounds.allocated(cell), self.bounds.time(cell)
        waste = random.Random(f"{self.seed}{resolved.setup}").randint(0, GIB)
        budget = make_budget(process_bytes=least.process_bytes + waste, total_params=MODEL.total_params)
        budget = budget.model_copy(update={"high_process_bytes": least.high_process_bytes + 2 * waste})
        candidate = make_candidate(setup=cell.setup, workload=cell.workload, device=self.subject.device, budget=budget)
        return candidate.model_copy(update={"time": time})


@pytest.mark.parametrize("part", range(4))
def test_the_answer_is_the_one_that_pricing_every_setup_gives_in_200_seeded_cases(part: int) -> None:
    models = [resolve_model(name, online=False) for name in ("meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-7B")]
    known: dict[Any, Bounds] = {}
    for seed in range(50 * part, 50 * part + 50):
        draw = random.Random(seed)
        model, name = draw.choice(models), draw.choice(["RTX 4090", "RTX 4060", "A100 80GB", "T4"])
        subject = Subject(model, product(name))
        given = {
            "sequence_length": draw.choice([512, 4096]),
            "method": draw.choice(["lora", "qlora", "full", "adapter"]),
        }
        given |= draw.choice([{"loss": "fused"}, {"loss": "standard"}, {"gradient_checkpointing": False}])
        given |= draw.choice([{"micro_batch": 4}, {"optimizer": "adamw_8bit"}])
        objectives = Objectives(
            prefer=draw.choice([("quality",), ("memory",), ("speed",), ("memory", "speed")]), complexity="complex"
        )
        bounds = known.setdefault(
            (model.repo_id, name),
            Bounds(model, subject.device, lambda key, _: known_program(key).program, profile=match_profile(name)[0]),
        )
        price = Wasteful(subject, bounds, seed)
        try:
            answer = recommend(model, subject.device, given, price, objectives=objectives, bounds=bounds)
        except NoProgramError:
            continue
        assert (answer.ranked[0].setup if answer.ranked else None) == _best_of_all(subject, given, objectives, price)


def _best_of_all(subject: Subject, given: Mapping[str, Any], objectives: Objectives, price: Wasteful) -> Any:
    """The setup with the least key, every one priced."""
    rank = suggest_rank(objectives.complexity, None, None)
    merits = Merits(subject.model, subject.device, objectives, rank=rank.rank, data=rank.data)
    keys = []
    for cell in space_of(given, subject, rank.rank).cells:
        try:
            found = price(subject.resolve(cell.given))
        except NoProgramError:
            continue
        if found.verdict != "no":
            known = Known(found.budget.high_process_bytes, found.verdict == "tight", speed_of(found.time))
            keys.append((merits.key(cell, known), cell.setup))
    return min(keys, key=lambda each: each[0])[1] if keys else None


def test_devices_are_treated_as_what_they_are() -> None:
    under_wsl = make_device(wsl=True)
    assert Subject(MODEL, under_wsl).resolve({"method": "lora"}).setup.alloc_conf == ""
    # A T4 has neither bf16 nor FlashAttention: fp16 autocast, fp32 weights where they train, no flash_attention_2.
    turing = Subject(MODEL, product("T4"))
    precision = turing.resolve({"method": "full"}).setup.precision
    assert (precision.dtype, precision.mixed_precision) == ("fp32", "fp16")
    assert {cell.setup.precision.mixed_precision for cell in space_of({}, turing, 16).cells} == {"fp16"}
    with pytest.raises(UsageError, match="no FlashAttention 2"):
        turing.resolve({"attention": "flash_attention_2"})
