"""Every method's program against a real step of it: the same bytes, in every phase."""

import pytest

from tests.trace.tiny_models import LLAMA_SIZES, assert_llama_exact, llama_key

pytestmark = pytest.mark.train
SMALL = {**LLAMA_SIZES, "P": 5, "b": 3, "e": 24, "L": 6, "W": 6 * 2 * LLAMA_SIZES["K"] * LLAMA_SIZES["d"]}
MODES = {
    "prefix": {"method": "prefix", "gradient_checkpointing": False},
    "prefix on a bf16 base, stock loss": {
        "method": "prefix",
        "gradient_checkpointing": False,
        "dtype": "bf16",
        "loss": "standard",
    },
    "prefix in a plain loop, whose cache outlives the step": {
        "method": "prefix",
        "gradient_checkpointing": False,
        "dtype": "bf16",
        "loss": "standard",
        "loop": "plain",
    },
    "prompt": {"method": "prompt"},
    "prompt, stock loss, no checkpointing": {
        "method": "prompt",
        "loss": "standard",
        "gradient_checkpointing": False,
    },
    "p-tuning": {"method": "ptuning", "encoder": "MLP"},
    "p-tuning on a bf16 base": {"method": "ptuning", "encoder": "MLP", "dtype": "bf16"},
    "ia3": {
        "method": "ia3",
        "target_modules": ("down_proj", "k_proj", "v_proj"),
        "feedforward_modules": ("down_proj",),
    },
    "houlsby": {
        "method": "adapter",
        "adapter_kind": "houlsby",
        "non_linearity": "gelu",
        "target_modules": ("down_proj", "o_proj"),
    },
    "pfeiffer, no checkpointing": {
        "method": "adapter",
        "adapter_kind": "pfeiffer",
        "non_linearity": "relu",
        "target_modules": ("down_proj",),
        "gradient_checkpointing": False,
    },
    "DoRA on nf4": {"method": "qlora", "quant": "nf4", "double_quant": True, "use_dora": True, "dtype": "bf16"},
    "k-bit preparation": {
        "method": "qlora",
        "quant": "nf4",
        "double_quant": True,
        "dtype": "bf16",
        "kbit_preparation": True,
        "adapter_dtype": "bf16",
    },
    "ia3 on nf4": {
        "method": "ia3",
        "target_modules": ("down_proj", "k_proj", "v_proj"),
        "feedforward_modules": ("down_proj",),
        "quant": "nf4",
        "double_quant": True,
    },
    "LoRA, embeddings and head trained in full": {
        "method": "lora",
        "target_modules": ("q_proj", "v_proj"),
        "modules_to_save": ("embed_tokens", "lm_head"),
    },
    "int8": {"method": "qlora", "quant": "int8", "dtype": "bf16", "adapter_dtype": "bf16"},
    "ln-tuning": {
        "method": "ln-tuning",
        "target_modules": ("input_layernorm", "norm", "post_attention_layernorm"),
    },
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.filterwarnings("ignore")
def test_a_methods_program_gives_the_bytes_of_its_real_step(name: str) -> None:
    assert_llama_exact(llama_key(MODES[name]), SMALL)


@pytest.mark.filterwarnings("ignore")
def test_bitfit_trains_the_biases_there_are() -> None:
    assert_llama_exact(llama_key({"method": "bitfit"}, biases=True), SMALL)
