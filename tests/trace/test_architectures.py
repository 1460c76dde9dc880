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
ROUTED = {
    "model_type": "phimoe",
    **SMALL,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
WITHOUT_FUSED_HEAD = {
    "model_type": "llama4_text",
    **SMALL,
    "num_hidden_layers": 4,
    "head_dim": 16,
    "intermediate_size_mlp": 144,
    "num_local_experts": 4,
    "num_experts_per_tok": 1,
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


def test_the_default_targets_of_a_mixture_leave_its_router_bare_and_its_step_is_exact():
    from tests.trace.tiny_models import assert_exact, spec_of
    from vramplan.planner.resolve import resolve

    method = resolve({"method": "lora", "rank": 4}, spec_of(ROUTED, "causal-lm"), None).setup.method
    assert set(method.target_modules) == {"q_proj", "k_proj", "v_proj", "o_proj"}
    assert_exact(ROUTED, "causal-lm", method)


def test_where_trls_fused_head_breaks_the_models_own_loss_is_the_default_and_exact():
    import torch
    from transformers import AutoModelForCausalLM

    from tests.trace.tiny_models import assert_exact, spec_of
    from vramplan.planner.errors import UsageError
    from vramplan.planner.resolve import resolve
    from vramplan.planner.trace.loss import add_fused_head
    from vramplan.planner.trace.weights import build_config

    model = AutoModelForCausalLM.from_config(build_config(WITHOUT_FUSED_HEAD))
    add_fused_head(model)
    row = torch.zeros(1, 8, dtype=torch.long)
    with pytest.raises(AttributeError, match="last_hidden_state"):
        model(input_ids=row, labels=row, fused_lm_head=True)

    spec = spec_of(WITHOUT_FUSED_HEAD, "causal-lm")
    setup = resolve({"method": "lora", "rank": 4}, spec, None).setup
    assert_exact(WITHOUT_FUSED_HEAD, "causal-lm", setup.method, loss=setup.loss)
    with pytest.raises(UsageError, match="fused head") as refused:
        resolve({"method": "lora", "loss": "fused"}, spec, None)
    assert refused.value.remedy == "use --loss standard"


def test_a_shortened_models_cross_attention_is_where_its_layers_say():
    from vramplan.planner.trace.skeleton import build_skeleton

    config = {"model_type": "mllama_text_model", **SMALL, "num_hidden_layers": 8, "cross_attention_layers": [3, 6]}
    text = build_skeleton({**config, "pad_token_id": 0}, dtype="fp32", kept=(0, 2, 3, 4, 6, 7)).model
    crosses = [number for number, layer in enumerate(text.layers) if hasattr(layer, "cross_attn")]
    assert crosses == text.cross_attention_layers == [2, 4]


@pytest.mark.parametrize(("name", "tried"), [("google/gemma-4-E2B", [1, 35]), ("HuggingFaceTB/SmolLM-135M", [1, 2])])
def test_where_neighbours_do_not_tell_layers_apart_a_depth_that_is_fixed_has_a_template_for_each(
    name, tried, monkeypatch
):
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.memory.structure import program_key
    from vramplan.planner.resolve import resolve
    from vramplan.planner.trace import build

    seen = []

    def nothing_folds(key, *, radius):
        seen.append(radius)
        raise build.FoldError("layers around [k2 k2 k2] differ")

    monkeypatch.setattr(build, "_build", nothing_folds)
    model = resolve_model(name, online=False)
    resolved = resolve({"method": "lora"}, model, None)
    with pytest.raises(build.FoldError):
        build.build_program(program_key(model, resolved.workload, resolved.setup, "cuda", None))
    assert seen == tried
