"""What FSDP2 shards together: a layer with the adapters that sit on it."""

import pytest

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.units import Unit, Units, units_of
from vramplan.planner.methods import Full, Lora, Method, Qlora
from vramplan.planner.resolve import resolve
from vramplan.planner.training_setup import Precision, TrainingSetup

LAYERS, FP32 = 32, 4


@pytest.mark.parametrize(
    ("target", "of_a_layer"),
    [
        # Llama 3.1 8B, rank 16: q and o of 4096 x 4096, k and v of 1024 x 4096, gate, up and down of 14336 x 4096
        (None, 16 * (2 * 8192 + 2 * 5120 + 3 * 18432)),
        ("q_proj,down_proj", 16 * (8192 + 18432)),
    ],
    ids=["all linears", "two of them"],
)
def test_adapters_are_sharded_with_the_layers_they_sit_on(target: str | None, of_a_layer: int) -> None:
    if target is not None:
        pytest.importorskip("torch")  # its program does not ship
    model = resolve_model("meta-llama/Llama-3.1-8B", online=False)
    device, _ = resolve_device("A100 80GB", memory_bytes=None, reserve_bytes=0)
    given = {"method": "lora", "rank": 16, "gpus": 2, "sharding": "fsdp"} | ({"target": target} if target else {})
    answer = resolve(given, model, device)
    budget = estimate(model, answer.workload, answer.setup, device, with_tensors=False, searching=True).budget
    held = {line.component: line.estimate_bytes for line in budget.held}
    assert held["adapter"] == LAYERS * FP32 * of_a_layer // 2


def units(name: str, method: Method) -> Units:
    setup = TrainingSetup(method=method, precision=Precision(dtype="bf16", mixed_precision="bf16"))
    return units_of(resolve_model(name, online=False), setup)


def shapes(unit: Unit) -> list[tuple[int, ...]]:
    return [parameter.shape for parameter in unit.parameters]


def test_the_last_norm_is_sharded_with_the_head_but_under_peft_with_what_is_left() -> None:
    """fsdp2_prepare_model groups final norm and head; below PEFT's wrapper it does not find the norm."""
    full, lora = (units("meta-llama/Llama-3.1-8B", method) for method in (Full(), Lora(r=16)))
    head, norm = (128_256, 4096), (4096,)
    assert (shapes(full.root), shapes(full.embed), shapes(full.tail)) == ([], [head], [norm, head])
    assert (shapes(lora.root), shapes(lora.embed), shapes(lora.tail)) == ([norm], [head], [head])
    assert (full.tied, len(full.layers)) == (False, 32)


def test_4_bit_weights_are_cut_in_elements_of_the_dtype_they_are_stored_in() -> None:
    """Params4bit packs two weights to a byte, in a column of quant_storage elements: bf16 here, of two bytes. q_proj
    of 4096 x 4096 is 4,194,304 of them, k_proj of 1024 x 4096 a quarter."""
    layer = units("meta-llama/Llama-3.1-8B", Qlora(r=16)).layers[0]
    packed = [parameter for parameter in layer.parameters if parameter.shape[1:] == (1,)]
    assert {parameter.shape for parameter in packed} == {(4_194_304, 1), (1_048_576, 1), (14_680_064, 1)}
    assert {(each.gathered_bytes, each.stored_bytes, each.trains) for each in packed} == {(2, 2, False)}


def test_a_tied_table_is_in_the_tail_which_the_step_needs_first_and_last() -> None:
    tied = units("Qwen/Qwen2.5-0.5B", Full())
    assert tied.tied
    assert shapes(tied.embed) == []
    assert sorted(shapes(tied.tail)) == [(896,), (151_936, 896)]


@pytest.mark.parametrize(
    ("name", "gathered"),
    [
        # tied: the table, whole since the embeddings were looked up, and the norm of 896, a block of 2,048 bytes
        ("Qwen/Qwen2.5-0.5B", 151_936 * 896 * 2 + 2048),
        # not tied: the head is gathered for its forward alone, and copied out of the buffer, final norm beside it
        ("meta-llama/Llama-3.1-8B", 2 * (128_256 * 4096 * 2 + 4096 * 2)),
    ],
)
def test_in_the_loss_the_head_is_there_whole(name: str, gathered: int) -> None:
    model = resolve_model(name, online=False)
    device, _ = resolve_device("A100 80GB", memory_bytes=None, reserve_bytes=0)
    answer = resolve({"method": "full", "gpus": 2, "sharding": "fsdp", "loss": "standard"}, model, device)
    budget = estimate(model, answer.workload, answer.setup, device, with_tensors=False, searching=True).budget
    loss = next(phase for phase in budget.phases if phase.name == "loss")
    assert sum(line.estimate_bytes for line in loss.lines if line.component == "gathered") == gathered
