"""What FSDP2 shards together: a layer with the adapters that sit on it."""

import pytest

from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.estimate import estimate
from vramplan.planner.resolve import resolve

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
    model = resolve_model("meta-llama/Llama-3.1-8B", online=False)
    device, _ = resolve_device("A100 80GB", memory_bytes=None, reserve_bytes=0)
    given = {"method": "lora", "rank": 16, "gpus": 2, "sharding": "fsdp"} | ({"target": target} if target else {})
    answer = resolve(given, model, device)
    budget = estimate(model, answer.workload, answer.setup, device, with_tensors=False, searching=True).budget
    held = {line.component: line.estimate_bytes for line in budget.held}
    assert held["adapter"] == LAYERS * FP32 * of_a_layer // 2
