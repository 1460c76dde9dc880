"""Programs against real steps: the same micro step on real tensors, tracked live, gives the same bytes."""

import pytest

from tests.trace.tiny_models import LLAMA_LAYERS, LLAMA_SIZES, assert_llama_exact, llama_key

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


@pytest.mark.parametrize("checkpointing", [True, False])
@pytest.mark.parametrize("loss", ["fused", "standard"])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_program_gives_the_bytes_of_a_real_step(method, loss, checkpointing):
    mode = {"method": method, "loss": loss, "gradient_checkpointing": checkpointing}
    assert_llama_exact(llama_key(mode), LLAMA_SIZES)


@pytest.mark.parametrize(
    "mode",
    [
        {"method": "lora", "dropout": True},
        {"method": "lora", "use_dora": True},
        {"method": "qlora", "quant": "nf4", "double_quant": True, "adapter_dtype": "bf16"},
        {"method": "lora", "target_modules": ("down_proj", "gate_proj", "up_proj"), "gradient_checkpointing": False},
        {"method": "full", "dtype": "bf16", "attention": "eager"},
    ],
    ids=["dropout", "dora", "qlora", "adapters on the MLP alone", "bf16 eager"],
)
def test_so_do_the_rarer_modes(mode):
    assert_llama_exact(llama_key(mode), LLAMA_SIZES)


def test_on_a_cpu_checkpointing_keeps_a_state_of_the_generator_for_each_layer_until_its_backward():
    import torch

    from vramplan.planner.memory.replay import At, Replay
    from vramplan.planner.trace.build import build_program

    held = {}
    for route in ("cpu", "cuda"):
        program = build_program(llama_key({"route": route, "gradient_checkpointing": True}))
        replay = Replay(program, At(LLAMA_SIZES, LLAMA_LAYERS, 1))
        labels = [number for number, label in enumerate(program.labels) if "rng_state" in label]
        held[route] = [
            replay.sizes[entry.size]
            for block, _, template in replay.blocks()
            for entry in program.templates[template]
            if block.segment == "forward.layer" and getattr(entry, "label", None) in labels
        ]
    assert held == {"cpu": [torch.get_rng_state().nbytes] * len(LLAMA_LAYERS), "cuda": []}
