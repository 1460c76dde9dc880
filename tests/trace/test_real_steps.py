"""Programs against real steps: the same micro step on real tensors, tracked live, gives the same bytes."""

import pytest

from tests.trace.tiny_models import LLAMA_SIZES, assert_llama_exact, llama_key

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
