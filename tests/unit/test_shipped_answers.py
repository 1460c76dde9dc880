"""What is asked for most, and what is too large to try, is answered from programs that ship: no torch, no wait."""

import pytest

from vramplan.planner.adapters import programs
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.candidate import Candidate
from vramplan.planner.estimate import estimate
from vramplan.planner.resolve import resolve

pytestmark = pytest.mark.skipif(not programs.shipped_digests(), reason="no programs have been built")


def price(name: str, device: str, *, traced: bool = False, **given: object) -> Candidate:
    task = given.get("task")
    model = model_for_task(resolve_model(name, online=False), task, None)  # type: ignore[arg-type]
    card, _ = resolve_device(device, memory_bytes=None, reserve_bytes=0)
    answer = resolve(given, model, card)
    find = programs.find_program if traced else programs.known_program
    return estimate(model, answer.workload, answer.setup, card, programs=find, with_tensors=False)


@pytest.mark.parametrize(
    ("name", "device", "given"),
    [
        ("deepseek-ai/DeepSeek-V3", "H100", {"method": "lora"}),
        ("Qwen/Qwen3-235B-A22B", "H100", {"method": "qlora"}),
        ("google/gemma-3-27b-pt", "H100", {"method": "qlora"}),
        ("mistralai/Mamba-Codestral-7B-v0.1", "H100", {"method": "lora"}),
        ("Qwen/Qwen2.5-VL-7B-Instruct", "H100", {"method": "lora"}),
        ("openai/gpt-oss-20b", "H100", {"method": "qlora"}),
        (
            "google-bert/bert-base-uncased",
            "RTX 4090",
            {"task": "classification", "micro_batch": 8, "sequence_length": 128},
        ),
        ("google-t5/t5-base", "RTX 4090", {"method": "lora", "micro_batch": 4, "sequence_length": 512}),
        ("meta-llama/Llama-3.1-8B", "RTX 4090", {"method": "adapter"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_answered_from_what_ships(name: str, device: str, given: dict[str, object]) -> None:
    candidate = price(name, device, **given)
    assert candidate.provenance.origin == "shipped"
    assert candidate.budget.peak_allocated_bytes > 2 * candidate.trainable_params


def test_671_billion_parameters_in_bf16_are_1250_gib() -> None:
    weights = price("deepseek-ai/DeepSeek-V3", "H100", method="lora").budget.phases[0].lines[0]
    assert weights.component == "weights"
    assert 671_026_404_352 * 2 <= weights.estimate_bytes < 671_026_404_352 * 2 * 1.001


@pytest.mark.train
def test_lora_and_qlora_keep_the_same_per_token_on_equal_dtypes() -> None:
    """A 4-bit base saves for the backward what a bf16 one saves; only its instants between differ."""

    def kept(length: int, method: str) -> int:
        candidate = price(
            "meta-llama/Llama-3.1-8B",
            "RTX 4090",
            traced=True,
            method=method,
            sequence_length=length,
            adapter_dtype="bf16",
            gradient_checkpointing=False,
        )
        loss = next(phase for phase in candidate.budget.phases if phase.name == "loss")
        return next(line.estimate_bytes for line in loss.lines if line.component == "activations")

    assert kept(2048, "lora") - kept(1024, "lora") == kept(2048, "qlora") - kept(1024, "qlora")
