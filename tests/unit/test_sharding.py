"""Several GPUs: what each rank holds, from shapes worked by hand, published sizes and measured steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_device, make_model_spec
from tests.programs import hand_written
from vramplan.planner.adapters.clusters import make_cluster
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.profiles import match_profile
from vramplan.planner.adapters.programs import Found
from vramplan.planner.candidate import Candidate
from vramplan.planner.cluster import Cluster
from vramplan.planner.deepspeed import deepspeed_config
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.groups import Group
from vramplan.planner.memory.sharded import buckets
from vramplan.planner.memory.units import Parameter, Unit, Units
from vramplan.planner.memory.zero_layout import Layout
from vramplan.planner.resolve import Resolved, resolve
from vramplan.planner.runnable import why_not_runnable
from vramplan.planner.throughput.cost import run_cost
from vramplan.planner.units import GIB, MIB

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "sharded.json"
LLAMA = "meta-llama/Llama-3.1-8B"
LLAMA_PARAMS = 8_030_261_248


def resolved(model: str = LLAMA, device: str = "A100 80GB", **given: Any) -> Resolved:
    return resolve(given, resolve_model(model, online=False), _device(device))


def _device(name: str) -> Any:
    return resolve_device(name, memory_bytes=None, reserve_bytes=0)[0]


def priced(model: str = LLAMA, device: str = "A100 80GB", cluster: Cluster | None = None, **given: Any) -> Candidate:
    answer = resolved(model, device, **given)
    spec = resolve_model(model, online=False)
    return estimate(spec, answer.workload, answer.setup, _device(device), cluster=cluster)


def part(candidate: Candidate, component: Component, phase: str | None = None) -> int:
    name = phase or candidate.budget.peak_phase
    lines = next(each for each in candidate.budget.phases if each.name == name).lines
    return sum(line.estimate_bytes for line in lines if line.component == component)


def because(candidate: Candidate, component: Component, phase: str) -> str:
    lines = next(each for each in candidate.budget.phases if each.name == phase).lines
    return next(line.because for line in lines if line.component == component)


# ------------------------------------------------------------------ shards
def test_rows_that_do_not_divide_are_padded_as_torch_chunks_them() -> None:
    """10 rows over 4 ranks: torch.chunk gives 3, 3, 3 and 1; FSDP2 pads the last to 3."""
    uneven = Parameter((10, 3), 2, 4, trains=True)
    unit = Unit([uneven, Parameter((8,), 2, 2, trains=False)])
    assert uneven.shard_shape(4) == (3, 3)
    assert unit.gather_bytes(4) == (12 * 3 + 8) * 2
    assert unit.whole_bytes(4, 512) == [512, 512]
    assert unit.copy_in_bytes(4) == 9 * 2
    assert unit.reduce_bytes(4) == 12 * 3 * 2
    assert unit.reduced_bytes(4) == 9 * 2
    assert unit.gradient_bytes(4) == 9 * 4


def test_a_dimension_smaller_than_the_world_is_gathered_larger_than_it_is() -> None:
    """LoRA's A of rank 16 over 64 ranks: a row each, so 64 rows are gathered."""
    assert Unit([Parameter((16, 4096), 2, 2, trains=True)]).gather_bytes(64) == 64 * 4096 * 2


def test_ddp_fills_a_first_bucket_of_one_mebibyte_and_then_of_25() -> None:
    """Eight gradients of 4 MiB, the last parameter first: one fills the first bucket, seven (28 MiB) the second."""
    assert buckets([Group(MIB, 4, 8)]) == [4 * MIB, 28 * MIB]
    assert sum(buckets([Group(1000, 2, 5000)])) == 10_000_000


# ------------------------------------------------------------------ per rank
def test_full_fine_tuning_of_8b_over_eight_gpus_is_an_eighth_of_everything_that_lasts() -> None:
    """fp32 masters, gradients and two AdamW states under mixed precision: 16 bytes a parameter, over 8 ranks."""
    rank = priced(method="full", gpus=8, sequence_length=2048)
    assert rank.verdict == "fits"
    for component, of_a_parameter in (("weights", 4), ("gradients", 4), ("optimizer", 8)):
        held = part(rank, component, "optimizer_step")  # type: ignore[arg-type]
        assert held == pytest.approx(LLAMA_PARAMS * of_a_parameter / 8, rel=1e-4)
        assert f"x {of_a_parameter} bytes" in because(rank, component, "optimizer_step")  # type: ignore[arg-type]
    assert rank.ranks is not None
    assert rank.ranks.world_size == 8
    assert part(rank, "gathered") > 0


def test_ddp_holds_what_one_device_holds_and_its_gradients_twice() -> None:
    alone = priced(method="lora")
    rank = priced(method="lora", gpus=2, sharding="ddp", gradient_accumulation_steps=16)
    adapter = part(alone, "adapter")
    assert part(rank, "weights") == part(alone, "weights")
    assert part(rank, "communication") == pytest.approx(adapter, rel=1e-3)
    assert rank.budget.peak_allocated_bytes - alone.budget.peak_allocated_bytes == part(rank, "communication")


def test_70b_by_qlora_over_two_cards_of_24_gib_needs_its_shards_in_host_memory() -> None:
    """Answer.AI trained it on two RTX 3090 with FSDP, QLoRA and CPU offload (answer.ai, 2024-03-06)."""
    question: dict[str, Any] = {"method": "qlora", "gpus": 2, "sharding": "fsdp", "sequence_length": 1024}
    shards = priced("meta-llama/Llama-3.1-70B", "RTX 3090", **question)
    offloaded = priced("meta-llama/Llama-3.1-70B", "RTX 3090", **question, offload="all")
    assert (shards.verdict, offloaded.verdict) == ("no", "fits")
    # 70.55 B parameters: 68.45 B in linears at half a byte, embedding and head of 1.05 B each in bf16, over two ranks
    assert part(shards, "weights") == pytest.approx((68.45e9 / 2 + 2.1e9 * 2) / 2, rel=0.01)
    assert part(offloaded, "weights") == 0
    assert offloaded.ranks is not None
    assert offloaded.ranks.host_pinned_bytes > part(shards, "weights")


def test_405b_in_full_over_64_gpus_is_answered_for_each_rank() -> None:
    question: dict[str, Any] = {"method": "full", "gpus": 8, "nodes": 8, "sequence_length": 2048}
    rank = priced("meta-llama/Llama-3.1-405B", **question)
    # 405.85 B parameters x 16 bytes / 64 ranks = 101.5 GB before the first token
    assert rank.verdict == "no"
    assert "each of 64 ranks needs" in rank.verdict_reason
    assert any(tensor.label.startswith("FSDP2") for tensor in rank.budget.peak_tensors)
    held = sum(part(rank, name, "optimizer_step") for name in ("weights", "gradients", "optimizer"))  # type: ignore[arg-type]
    assert held == pytest.approx(405.85e9 * 16 / 64, rel=0.001)


@pytest.mark.parametrize(("sharding", "bytes_a_parameter"), [("zero1", 2 + 14 / 8), ("zero2", 2 + 14 / 8)])
def test_zero_holds_what_its_paper_says(sharding: str, bytes_a_parameter: float) -> None:
    """Rajbhandari et al. (2020), figure 1: with K = 12, 2 + (2 + K) / N bytes a parameter, in the step also of stage 1,
    whose gradients are reduced by then; DeepSpeed keeps what a part touches whole, at most two embeddings here."""
    rank = priced(method="full", gpus=8, sharding=sharding, dtype="bf16", mixed_precision="bf16")
    held = sum(part(rank, name, "optimizer_step") for name in ("weights", "gradients", "optimizer"))  # type: ignore[arg-type]
    assert LLAMA_PARAMS * bytes_a_parameter <= held <= LLAMA_PARAMS * bytes_a_parameter + 2 * 2 * 128_256 * 4096


def test_stage_1_holds_all_gradients_when_the_backward_ends() -> None:
    """2 + 2 + K / N bytes a parameter: the paper's figure 1."""
    rank = priced(method="full", gpus=8, sharding="zero1", dtype="bf16", mixed_precision="bf16")
    held = sum(part(rank, name, "backward") for name in ("weights", "gradients", "optimizer"))  # type: ignore[arg-type]
    assert held >= LLAMA_PARAMS * (2 + 2 + 12 / 8)


def test_zero3_splits_everything_but_small_tensors() -> None:
    rank = priced(method="full", gpus=8, sharding="zero3")
    held = sum(part(rank, name, "optimizer_step") for name in ("weights", "gradients", "optimizer"))  # type: ignore[arg-type]
    assert held == pytest.approx(LLAMA_PARAMS * 16 / 8, rel=1e-3)


def test_zero3_has_a_layer_whole_where_it_is_recomputed() -> None:
    """Llama-3.1-8B's linears of a layer are 218,103,808 elements in bf16; its two norms always are whole."""
    rank = priced(method="full", gpus=8, sharding="zero3")
    assert part(rank, "gathered", "backward") >= 218_103_808 * 2


def test_flat_groups_are_padded_to_two_elements_a_rank_and_cut_in_equal_parts() -> None:
    """stage_1_and_2.py: 2 x 4 ranks, so 21 elements that decay are 24, six a rank; 5 that do not are 8, two a rank."""
    decaying = Unit([Parameter((3, 7), 2, 2, trains=True)])
    norm = Unit([Parameter((5,), 2, 2, trains=True, decays=False)])
    layout = Layout.of(Units(root=Unit([]), embed=decaying, layers=[], tail=norm, tied=False), 4)
    assert (layout.groups, layout.parts) == ([24, 8], [6, 2])
    assert [list(layout.owners(flat)) for flat in layout.in_order()] == [
        [(0, 6), (1, 6), (2, 6), (3, 3)],
        [(0, 2), (1, 2), (2, 1)],
    ]
    assert (layout.touched_numel(), layout.largest_piece()) == (21 + 5, 6)


def test_deepspeed_is_told_what_is_priced() -> None:
    """The sizes that transformers writes for "auto" where h is 4,096, and nothing gathered ahead."""
    answer = resolved(method="full", gpus=8, sharding="zero3")
    config = deepspeed_config(answer.setup, resolve_model(LLAMA, online=False).config)
    zero = config["zero_optimization"]
    assert (zero["stage"], zero["reduce_bucket_size"]) == (3, 16_777_216)
    assert zero["stage3_param_persistence_threshold"] == 40_960
    assert (zero["stage3_max_live_parameters"], zero["stage3_max_reuse_distance"], zero["overlap_comm"]) == (
        0,
        0,
        False,
    )
    assert (config["bf16"], config["fp16"]) == ({"enabled": True}, {"enabled": False})


def test_a_thousand_gpus_are_priced_on_paper_and_said_to_be_unchecked() -> None:
    rank = priced(method="full", gpus=8, nodes=128)
    assert rank.ranks is not None
    assert rank.ranks.world_size == 1024
    assert any("no run of ours" in words for words in rank.ranks.unchecked)
    assert part(rank, "optimizer") == pytest.approx(LLAMA_PARAMS * 8 / 1024, rel=0.02)


# ------------------------------------------------------------------ hosts and links
def test_a_hosts_memory_that_does_not_do_is_a_verdict_of_its_own() -> None:
    short = priced(method="full", gpus=8, sequence_length=2048, cluster=make_cluster(None, 8 * GIB))
    assert short.verdict == "no"
    assert "host memory" in short.verdict_reason


def test_time_on_the_links_is_what_a_ring_sends_at_the_slowest_links_speed() -> None:
    """LoRA by DDP: gradients of 41,943,040 parameters in fp32, all-reduced once: 2 x 7/8 of them sent by each rank."""
    rank = priced(method="lora", gpus=8, sharding="ddp", cluster=make_cluster("pcie4", None))
    assert rank.ranks is not None
    assert rank.ranks.sent_bytes_per_step == 41_943_040 * 4 * 2 * 7 // 8
    assert rank.ranks.communication_seconds == pytest.approx(41_943_040 * 4 * 2 * 7 / 8 / 31.5e9)
    own = priced(method="lora", gpus=8, sharding="ddp").ranks
    assert own is not None
    assert own.communication_seconds == pytest.approx(41_943_040 * 4 * 2 * 7 / 8 / 300e9)  # an A100's NVLink
    assert "assumed" in own.communication_because
    far = priced(method="lora", gpus=8, nodes=2, sharding="ddp").ranks
    assert far is not None
    assert far.communication_seconds is None


def test_a_link_nobody_knows_is_refused_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="no such link") as caught:
        make_cluster("carrier-pigeon", None)
    assert "nvlink4" in str(caught.value.remedy)
    with pytest.raises(UsageError, match="two links within a node"):
        make_cluster("pcie4,nvlink4", None)


# ------------------------------------------------------------------ options
def test_a_step_of_all_ranks_holds_the_sequences_asked_for() -> None:
    setup = resolved(method="lora", gpus=8).setup
    assert (setup.sharding, setup.world_size, setup.gradient_accumulation_steps) == ("fsdp", 8, 2)
    assert resolved(method="lora", gpus=8, nodes=4).workload.sequences_per_step == 32


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sharding": "fsdp"}, "needs more than one GPU"),
        ({"gpus": 2, "sharding": "none"}, "would stand idle"),
        ({"gpus": 2, "sharding": "fsdp", "offload": "optimizer"}, "offloads parameters, gradients and states together"),
        ({"gpus": 2, "sharding": "zero2", "offload": "all"}, "only ZeRO's third stage"),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        resolve(given | {"method": "lora"}, make_model_spec(), make_device())


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "ia3", "sharding": "fsdp"}, "--sharding fsdp with --method ia3"),
        ({"method": "full", "sharding": "fsdp", "optimizer": "adamw_8bit"}, "--optimizer adamw_8bit"),
        ({"method": "lora", "sharding": "zero3", "use_dora": True}, "--use-dora"),
        ({"method": "qlora", "sharding": "zero3"}, "--sharding zero3 with a quantised base"),
    ],
)
def test_what_is_not_priced_with_several_gpus_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UnsupportedError, match=words):
        priced(gpus=2, **given)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"gpus": 2, "sharding": "ddp"}, None),
        ({"gpus": 2, "sharding": "fsdp"}, None),
        ({"gpus": 2, "sharding": "fsdp", "offload": "all"}, None),
        ({"gpus": 2, "nodes": 2}, "the processes of one node"),
        ({"gpus": 2, "sharding": "zero2"}, None),
        ({"gpus": 2, "sharding": "zero3", "method": "full"}, None),
        ({"gpus": 2, "sharding": "zero3"}, "trl checkpoints it reentrantly"),
        ({"gpus": 2, "sharding": "zero2", "offload": "optimizer"}, "--offload optimizer under DeepSpeed"),
        ({"gpus": 2, "sharding": "zero2", "method": "qlora"}, "--method qlora under DeepSpeed"),
        ({"gpus": 2, "sharding": "zero2", "init_lora_weights": "pissa"}, "--init-lora-weights pissa under DeepSpeed"),
        ({"gpus": 2, "sharding": "fsdp", "init_lora_weights": "pissa"}, "--init-lora-weights pissa under FSDP2"),
        ({"gpus": 2, "sharding": "fsdp", "method": "qlora", "kbit_preparation": True}, "--kbit-preparation"),
    ],
)
def test_what_runs_on_several_gpus_and_what_does_not(given: dict[str, Any], words: str | None) -> None:
    device = _device("A100 80GB")
    setup = resolved(LLAMA, "A100 80GB", **{"method": "lora", **given}).setup
    why = why_not_runnable(setup, "causal-lm", resolve_model(LLAMA, online=False), device)
    assert (why is None) == (words is None)
    assert (words or "None") in str(why)


def test_a_sharded_model_trains_all_its_parameters() -> None:
    assert priced(method="full", gpus=8).trainable_params == LLAMA_PARAMS


def test_processes_on_one_processor_share_its_memory() -> None:
    spec, cpu = make_model_spec(), make_device(kind="cpu", total_bytes=3 * GIB, free_bytes=None, profile=None)
    answer = resolve({"method": "lora", "gpus": 2, "sharding": "ddp"}, spec, cpu)
    small = Found(hand_written(), "shipped")
    candidate = estimate(spec, answer.workload, answer.setup, cpu, programs=lambda key: small)
    assert candidate.available_bytes == 3 * GIB // 2


# ------------------------------------------------------------------ time
def test_a_step_of_several_gpus_is_as_long_as_computing_and_what_nothing_hides() -> None:
    """LoRA by DDP sends 293 MB a step: NVLink hides that behind the last backward, 10 Gbit/s Ethernet does not."""
    alone = priced(method="lora", tokens_per_step=4096 * 8).time
    near = priced(method="lora", gpus=8, sharding="ddp", tokens_per_step=4096 * 8).time
    assert alone is not None
    assert near is not None
    assert near.tokens_per_step == alone.tokens_per_step
    assert near.lines[-1].phase == "communication"
    assert near.lines[-1].seconds == 0
    assert near.tokens_per_second.typical / alone.tokens_per_second.typical == pytest.approx(8, rel=0.05)
    links = make_cluster("nvlink3,ethernet-10g", None)
    far = priced(method="lora", gpus=4, nodes=2, sharding="ddp", cluster=links, tokens_per_step=4096 * 8).time
    assert far is not None
    sent = 41_943_040 * 4 * 2 * 7 / 8
    assert far.lines[-1].seconds == pytest.approx(
        sent / (0.7 * 1.25e9), abs=far.seconds.typical - far.lines[-1].seconds
    )
    assert far.seconds.low < near.seconds.typical < far.seconds.high


def test_full_training_gathers_its_weights_in_every_micro_batch() -> None:
    """By hand: 8.03 B x 2 bytes, gathered twice and reduced once, 7/8 of it, at 70 % of 300 GB/s."""
    rank = priced(method="full", gpus=8, sequence_length=512)
    assert rank.time is not None
    whole = 3 * LLAMA_PARAMS * 2 * 7 / 8 / (0.7 * 300e9) * rank.setup.gradient_accumulation_steps
    assert f"{whole:.3g} s over NVLink" in rank.time.lines[-1].because
    assert "--interconnect says otherwise" in rank.time.basis


def test_a_run_on_several_gpus_costs_an_hour_of_each() -> None:
    rank = priced(method="lora", gpus=8, sharding="ddp")
    profile = match_profile("NVIDIA A100 SXM4 80 GB")[0]
    cost = run_cost(rank.time, rank.workload, rank.setup, profile, usd_per_hour=2.0, max_steps=100)
    assert cost.hours is not None
    assert cost.usd is not None
    assert cost.kilowatt_hours is not None
    assert cost.usd.typical == pytest.approx(cost.hours.typical * 8 * 2)
    assert cost.kilowatt_hours.high == pytest.approx(cost.hours.high * 8 * 0.4)


# ------------------------------------------------------------------ against real ranks
def test_every_measured_rank_is_within_two_percent() -> None:
    rows = json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]
    assert {row["sharding"] for row in rows} == {"fsdp", "ddp", "zero1", "zero2", "zero3"}
    assert all(abs(row["off_by"]) <= 0.02 for row in rows)


# ------------------------------------------------------------------ the document
def test_the_documents_table_is_the_measured_one() -> None:
    page = (RESULTS.parents[2] / "docs" / "sharding.md").read_text(encoding="utf-8")
    for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]:
        figures = f"{row['predicted_peak_bytes']:,} | {max(row['measured_peak_bytes']):,}"
        assert f"| {row['cell']} | {figures} |" in page


def test_the_worked_example_is_the_price_of_a_rank() -> None:
    """docs/sharding.md: shards but for rounding to 512; a step counter, 512 bytes, for each of 291 tensors."""
    rank = priced(method="full", gpus=8, sequence_length=2048)
    shards = LLAMA_PARAMS * 4 // 8
    assert part(rank, "weights", "optimizer_step") == pytest.approx(shards, rel=1e-6)
    assert part(rank, "optimizer", "optimizer_step") == pytest.approx(2 * shards + 291 * 512, rel=1e-6)
