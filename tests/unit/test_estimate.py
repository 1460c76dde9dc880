"""A priced candidate: its sums, its verdict at the edges, and every way there may be no answer."""

import errno
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from tests.fakes import make_budget, make_cpu, make_device
from tests.programs import KEY, hand_written
from vramplan.planner.adapters import programs
from vramplan.planner.adapters.cancelling import Cancelled, given_up_by
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.programs import Found, find_program
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device, DeviceKind, Holder
from vramplan.planner.errors import ExitCode, NoProgramError, UnsupportedError, UsageError
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.outside import PRIOR
from vramplan.planner.memory.price import Pricing, Question
from vramplan.planner.memory.structure import program_key
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.price_warnings import warnings_of
from vramplan.planner.programs.codec import dump_program
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.training_setup import Precision, TrainingSetup
from vramplan.planner.units import GIB
from vramplan.planner.verdict import judge
from vramplan.planner.workload import Workload

LLAMA = resolve_model("meta-llama/Llama-3.1-8B", online=False)
WORKLOAD = Workload(sequence_length=512)
BF16 = Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32")
METHODS = [Full(), Lora(r=16), Qlora(r=16)]
IDS = ["full", "lora", "qlora"]


def hand(key: ProgramKey) -> Found:
    """The hand-written program, whatever is asked for."""
    return Found(hand_written(), "shipped")


def priced(
    device: Device | None = None, *, answer: Callable[[ProgramKey], Found] = hand, route: Any = None, **setup: Any
) -> Candidate:
    fields: dict[str, Any] = {"method": Lora(r=16), "precision": BF16, "micro_batch_size": 2, **setup}
    return estimate(LLAMA, WORKLOAD, TrainingSetup(**fields), device, route=route, programs=answer)


def card(free_bytes: int, **changes: Any) -> Device:
    return make_device(total_bytes=80 * GIB, free_bytes=free_bytes, **changes)


# ------------------------------------------------------------------ sums
@pytest.mark.parametrize("accumulation", [1, 4])
@pytest.mark.parametrize("device", [make_device(), make_cpu(), None], ids=["gpu", "cpu", "no device"])
@pytest.mark.parametrize("method", METHODS, ids=IDS)
def test_every_budget_adds_up(method: Any, device: Device | None, accumulation: int) -> None:
    budget = priced(device, method=method, gradient_accumulation_steps=accumulation).budget
    for phase in budget.phases:
        assert phase.allocated_bytes == sum(line.estimate_bytes for line in phase.lines)
    highest = max(budget.phases, key=lambda phase: phase.allocated_bytes)
    assert budget.peak_phase == highest.name
    assert budget.peak_allocated_bytes == highest.allocated_bytes
    added = sum(line.estimate_bytes for line in budget.process_lines)
    assert budget.process_bytes == budget.peak_allocated_bytes + added
    assert budget.steady_allocated_bytes == sum(line.estimate_bytes for line in budget.held)


@pytest.mark.parametrize("device", [make_device(), make_cpu()], ids=["gpu", "cpu"])
def test_high_is_never_below_the_estimate_and_every_line_has_its_reason(device: Device) -> None:
    budget = priced(device).budget
    lines = [*budget.process_lines, *budget.held, *(line for phase in budget.phases for line in phase.lines)]
    for line in lines:
        assert line.high_bytes >= line.estimate_bytes >= 0
        assert line.high_bytes > 0 or line.component == "fragmentation"
        assert line.because
        assert line.high_bytes == line.estimate_bytes or line.source
    assert budget.high_process_bytes >= budget.process_bytes
    assert budget.high_reserved_bytes >= budget.peak_reserved_bytes


def part(candidate: Candidate, phase: str, component: str) -> int:
    lines = next(each.lines for each in candidate.budget.phases if each.name == phase)
    return sum(line.estimate_bytes for line in lines if line.component == component)


def test_the_static_lines_are_those_of_the_published_checkpoint_and_of_peft() -> None:
    # Llama 3.1 8B in bf16, rank 16 on all linears in fp32: all tensors are whole blocks of 512 bytes
    candidate = priced()
    assert candidate.total_params == 8_030_261_248
    assert candidate.trainable_params == 41_943_040
    assert part(candidate, "forward", "weights") == 16_060_522_496
    assert part(candidate, "forward", "adapter") == 4 * 41_943_040
    assert part(candidate, "load", "optimizer") == 0
    # m and v in fp32, and a 4-byte step counter for each of 2 x 7 x 32 matrices, in a block of 512
    assert part(candidate, "optimizer_step", "optimizer") == 8 * 41_943_040 + 448 * 512


def test_dynamic_lines_are_the_replays() -> None:
    # the hand-written program at B=2, S=512, h=4096, 32 layers: activations 2BSh a layer and a mask of S x S
    loss = priced().budget.phases[2]
    assert loss.name == "loss"
    assert part(priced(), "loss", "activations") == 32 * 2 * 2 * 512 * 4096 + 512 * 512
    assert part(priced(), "loss", "loss") == 512  # 100 bytes


def test_without_a_run_on_such_a_gpu_5_percent_of_what_lives_inside_a_step_is_kept_back() -> None:
    loss = priced(make_device()).budget.phases[2]
    up_to = {line.component: (line.estimate_bytes, line.high_bytes) for line in loss.lines}
    assert up_to["activations"] == (268_697_600, 282_132_480)
    assert up_to["weights"] == (16_060_522_496, 16_060_522_496)
    on_cpu = priced(make_cpu()).budget.phases[2]
    # on a CPU steps are exact but for the numbers autograd keeps, 8 bytes each
    gaps = [line.high_bytes - line.estimate_bytes for line in on_cpu.lines]
    assert sorted(gaps)[:-1] == [0] * (len(gaps) - 1)
    assert 0 < max(gaps) < 100_000


def test_what_is_kept_back_is_taken_of_a_share_of_the_phase_at_least() -> None:
    figures = PRIOR.model_copy(update={"dynamic_least_share": 0.5})
    setup = TrainingSetup(method=Lora(r=16), precision=BF16, micro_batch_size=2)
    budget = estimate(LLAMA, WORKLOAD, setup, make_device(), programs=hand, figures=lambda device: figures).budget
    loss = budget.phases[2]
    kept_back = sum(line.high_bytes - line.estimate_bytes for line in loss.lines)
    assert kept_back == pytest.approx(0.05 * 0.5 * loss.allocated_bytes, rel=1e-6)


def test_gradients_kept_over_micro_batches_are_there_in_the_forward() -> None:
    assert part(priced(), "forward", "gradients") == 0
    assert part(priced(gradient_accumulation_steps=2), "forward", "gradients") == 4 * 41_943_040


def test_only_cuda_has_a_context_a_workspace_and_blocks_of_512() -> None:
    on_cpu = priced(make_cpu())
    assert [line.component for line in on_cpu.budget.process_lines] == ["context"]
    assert on_cpu.budget.peak_reserved_bytes == on_cpu.budget.peak_allocated_bytes
    assert part(on_cpu, "loss", "loss") == 100
    names = [line.component for line in priced(make_device()).budget.process_lines]
    assert names == ["context", "fragmentation"]


def test_cublas_workspaces_count_as_allocated_as_pytorch_counts_them() -> None:
    """8,519,680 bytes a handle (pytorch/pytorch#95668), 32 MiB on Hopper; one for the forward's thread, one for the
    backward's."""
    assert part(priced(make_device()), "forward", "workspace") == 2 * 8_519_680
    assert part(priced(make_device(compute_capability=(9, 0))), "backward", "workspace") == 2 * 32 * 2**20
    assert part(priced(make_device()), "load", "workspace") == 0


def test_the_route_may_be_named_without_a_device() -> None:
    assert priced(route="cpu").budget.peak_allocated_bytes == priced(make_cpu()).budget.peak_allocated_bytes
    assert priced().budget.peak_allocated_bytes == priced(make_device()).budget.peak_allocated_bytes


# ------------------------------------------------------------------ verdicts
def test_the_verdict_turns_at_the_very_byte() -> None:
    budget = priced(make_device()).budget
    high, expected = budget.high_process_bytes, budget.process_bytes
    assert expected < high
    sizes = {high: "fits", high - 1: "tight", expected: "tight", expected - 1: "no"}
    for size, verdict in sizes.items():
        candidate = priced(make_device(source="memory", total_bytes=size, free_bytes=None, uuid=None))
        assert candidate.verdict == verdict
        assert candidate.headroom_bytes == size - high
        assert candidate.available_bytes == size
        assert candidate.verdict_reason


def test_what_is_kept_back_is_not_available() -> None:
    high = priced().budget.high_process_bytes
    assert priced(card(high + GIB, reserve_bytes=GIB)).verdict == "fits"
    assert priced(card(high + GIB, reserve_bytes=GIB + 1)).verdict == "tight"


def test_without_a_device_there_is_no_verdict() -> None:
    candidate = priced()
    assert candidate.verdict is None
    assert candidate.available_bytes is candidate.headroom_bytes is None
    assert candidate.verdict_reason == "no device named"


def test_a_card_that_is_merely_busy_says_who_holds_it() -> None:
    budget = make_budget(process_bytes=12 * GIB, high_process_bytes=13 * GIB)
    holder = Holder(pid=4242, name="python", used_bytes=70 * GIB)
    verdict, reason = judge(budget, card(10 * GIB, holders=(holder,)))
    assert verdict == "no"
    assert "3.00 GiB freed" in reason
    assert "python: 70.00 GiB" in reason
    # a card that is too small is not merely busy
    small = make_device(total_bytes=12 * GIB, free_bytes=10 * GIB, holders=(holder,))
    assert judge(budget, small) == ("no", "needs 12.00 GiB, 2.00 GiB more than 10.00 GiB")


def test_where_giving_back_the_cache_is_enough_it_is_tight_and_said() -> None:
    budget = make_budget(process_bytes=12 * GIB, high_process_bytes=13 * GIB)
    full = make_device(total_bytes=11 * GIB, free_bytes=11 * GIB)
    verdict, reason = judge(budget, full, 10 * GIB)
    assert verdict == "tight"
    assert "gives back its cache" in reason
    assert judge(budget, full, None)[0] == "no"


# ------------------------------------------------------------------ no answer
def test_a_quantised_checkpoint_is_refused() -> None:
    quantised = LLAMA.model_copy(update={"quantization": "gptq"})
    with pytest.raises(UnsupportedError, match="gptq") as refused:
        estimate(quantised, WORKLOAD, TrainingSetup(method=Lora()), None, programs=hand)
    assert refused.value.remedy


@pytest.mark.parametrize("kind", ["mps", "xpu", "hpu", "tpu"])
def test_a_device_whose_kernels_are_unknown_has_no_figure(kind: DeviceKind) -> None:
    with pytest.raises(UnsupportedError, match=kind) as refused:
        priced(make_device(kind=kind))
    assert "--device" in str(refused.value.remedy)


def test_rocm_has_figures_and_no_verdict() -> None:
    candidate = priced(make_device(kind="rocm"))
    assert candidate.verdict is None
    assert "ROCm" in candidate.verdict_reason


def test_fused_experts_stay_unquantised_and_that_is_said() -> None:
    # Mixtral 8x7B: 32 layers x 8 experts x 3 matrices of 14336 x 4096 in bf16 = 84 GiB.
    mixtral = resolve_model("mistralai/Mixtral-8x7B-v0.1", online=False)
    said = warnings_of(mixtral, TrainingSetup(method=Qlora()), None)
    assert "bitsandbytes does not quantise fused experts: 84.00 GiB of them stay in bf16" in said
    assert not any("experts" in words for words in warnings_of(LLAMA, TrainingSetup(method=Qlora()), None))


def test_a_wrong_target_is_refused_before_anything_is_traced() -> None:
    def never(key: ProgramKey) -> Found:
        raise AssertionError("no program is asked for")

    with pytest.raises(UsageError, match="c_attn"):
        priced(method=Lora(target_modules=("c_attn",)), answer=never)


@pytest.fixture
def unshipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Nothing ships; where the cached program of any key would be."""
    path = tmp_path / "cache" / "program.json"
    monkeypatch.setattr(programs, "_shipped", lambda digest: None)
    monkeypatch.setattr(programs, "_cache_path", lambda digest: path)
    return path


def test_an_unshipped_program_without_the_train_extra_names_it(
    unshipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(NoProgramError) as refused:
        priced(answer=find_program)
    assert "llama with lora" in refused.value.message
    assert "vramplan[train]" in str(refused.value.remedy)
    assert refused.value.exit_code is ExitCode.MISSING_EXTRA


@pytest.mark.parametrize(
    "cached",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"format": 1}',
        b'{"format": 0}',
        b"\xff\xfe",
        dump_program(hand_written())[:99].encode(),
    ],
)
def test_a_damaged_cached_program_is_traced_again(
    cached: bytes, unshipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "_trace", lambda key: dump_program(hand_written()))
    unshipped.parent.mkdir()
    unshipped.write_bytes(cached)
    assert find_program(KEY) == Found(hand_written(), "traced")
    monkeypatch.setattr(programs, "_trace", lambda key: pytest.fail("it is cached now"))
    assert find_program(KEY) == Found(hand_written(), "cached")
    assert [path.name for path in unshipped.parent.iterdir()] == ["program.json"]


def test_a_cache_that_cannot_be_written_does_not_cost_the_answer(
    unshipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(programs, "_trace", lambda key: dump_program(hand_written()))
    monkeypatch.setattr(Path, "write_text", full)
    assert find_program(KEY).origin == "traced"


def traced_by(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program of this code stands in for the tracing one."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(programs, "CHILD", (sys.executable, "-c", code))


def test_a_trace_that_hangs_is_no_program(unshipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced_by("import time; time.sleep(600)", monkeypatch)
    monkeypatch.setattr(programs, "TRACE_SECONDS", 0)
    with pytest.raises(NoProgramError, match="within 0 seconds"):
        find_program(KEY)


def test_a_trace_that_fails_gives_its_last_line(unshipped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traced_by("import sys; sys.exit('FoldError: layers differ')", monkeypatch)
    with pytest.raises(NoProgramError, match="FoldError: layers differ"):
        find_program(KEY)
    assert not unshipped.exists()


def test_a_trace_that_nobody_wants_any_more_ends_with_its_process(
    unshipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_by("import time; time.sleep(600)", monkeypatch)
    given_up = Event()
    given_up.set()
    with given_up_by(given_up), pytest.raises(Cancelled):
        find_program(KEY)
    assert not unshipped.exists()


# ------------------------------------------------------------------ what ships
PUBLISHED = ["meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B", "google/gemma-2-9b", "google/gemma-3-1b-pt"]
PUBLISHED += ["HuggingFaceTB/SmolLM3-3B", "microsoft/Phi-3-mini-4k-instruct", "Qwen/Qwen3-4B"]


@pytest.mark.parametrize("method", METHODS, ids=IDS)
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_model_is_priced_with_what_ships(name: str, method: Any) -> None:
    model = resolve_model(name, online=False)
    attention = "eager" if model.model_type == "gemma2" else "sdpa"
    precision = BF16.model_copy(update={"adapter_dtype": "bf16" if method.kind == "qlora" else "fp32"})
    setup = TrainingSetup(method=method, precision=precision, micro_batch_size=2, attention=attention)

    def ships(key: ProgramKey) -> Found:
        if key.digest() not in programs.shipped_digests():
            pytest.skip("this program has not been built")
        return find_program(key)

    workload = Workload(sequence_length=1024)
    candidate = estimate(model, workload, setup, make_device(), programs=ships)
    budget = candidate.budget
    assert candidate.provenance.origin == "shipped"
    assert budget.peak_reserved_bytes >= budget.peak_allocated_bytes > part(candidate, "load", "weights")
    assert budget.peak_tensors
    # two roads to one number: the gradients the traced backward leaves, and the trainable parameters counted
    pricing = Pricing(
        Question(model, workload, setup, "cuda"), ships(program_key(model, workload, setup, "cuda", None)).program
    )
    assert pricing.replayed.end_parts["gradients"] == part(candidate, "optimizer_step", "gradients")
