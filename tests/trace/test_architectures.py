"""Recurrent layers and multimodal models on text: programs and counts against real models and their real steps."""

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

SMALL = {
    "vocab_size": 300,
    "hidden_size": 64,
    "num_hidden_layers": 5,
    "intermediate_size": 144,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
STATE = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 5}
RECURRENT = {
    "mamba": {"model_type": "mamba", **STATE, "state_size": 8},
    "mamba2": {
        "model_type": "mamba2",
        **STATE,
        "state_size": 16,
        "num_heads": 8,
        "head_dim": 16,
        "n_groups": 2,
        "chunk_size": 32,
    },
    "falcon_h1": {
        "model_type": "falcon_h1",
        **SMALL,
        "mamba_d_ssm": 64,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 16,
        "mamba_chunk_size": 32,
        "mamba_n_groups": 1,
    },
    "nemotron_h": {
        "model_type": "nemotron_h",
        **SMALL,
        "num_hidden_layers": 4,
        "mamba_num_heads": 8,
        "mamba_head_dim": 16,
        "ssm_state_size": 16,
        "n_groups": 2,
        "chunk_size": 32,
        "hybrid_override_pattern": "M-M*",
        "head_dim": 16,
    },
}
TOWER = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 64}
MULTIMODAL = {
    "qwen2_5_vl": {
        "model_type": "qwen2_5_vl",
        "text_config": {**SMALL, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}},
        "vision_config": TOWER,
    },
}


@pytest.mark.parametrize("family", RECURRENT)
def test_a_recurrent_models_program_gives_the_bytes_of_its_real_step(family):
    from tests.trace.tiny_models import assert_exact
    from vramplan.planner.methods import Lora

    attention = "eager" if family.startswith("mamba") else "sdpa"
    assert_exact(RECURRENT[family], "causal-lm", Lora(r=4, target_modules=("in_proj",)), attention=attention)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", MULTIMODAL)
def test_a_multimodal_model_on_text_holds_its_tower_and_trains_its_language_part(family, method):
    from tests.trace.tiny_models import assert_exact
    from vramplan.planner.methods import Full, Lora

    assert_exact(MULTIMODAL[family], "causal-lm", Full() if method == "full" else Lora(r=4))
