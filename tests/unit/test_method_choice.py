"""Methods from options: PEFT's own defaults, papers' counts, and what is refused with a remedy."""

from typing import Any

import pytest

from tests.fakes import make_cpu, make_model_spec
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.memory.static import count_static, total_bytes
from vramplan.planner.methods import Bottleneck, Ia3, Lora, Method, Prompt
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import resolve

CPU = make_cpu()


def chosen(model: ModelSpec, **given: Any) -> Method:
    return resolve(given, model, CPU).setup.method


def trainable(model: ModelSpec, **given: Any) -> int:
    return count_static(model, resolve(given, model, CPU).setup).trainable_params


def published(name: str) -> ModelSpec:
    return resolve_model(name, online=False)


def test_twenty_prefix_tokens_of_llama_2_7b_are_5_242_880_parameters() -> None:
    # 20 tokens x 32 layers x a key and a value of 32 heads x 128 (Li and Liang, 2021)
    assert trainable(published("meta-llama/Llama-2-7b-hf"), method="prefix", virtual_tokens=20) == 5_242_880


def test_a_prefix_of_grouped_heads_is_as_wide_as_their_keys_and_values() -> None:
    # Llama 3.1 8B has 8 key/value heads of 128: a quarter of the above
    assert trainable(published("meta-llama/Llama-3.1-8B"), method="prefix", virtual_tokens=20) == 5_242_880 // 4


def test_a_houlsby_bottleneck_of_64_at_width_4096_has_528_448_parameters() -> None:
    model = published("meta-llama/Llama-2-7b-hf")
    assert trainable(model, method="adapter", bottleneck_size=64) == 528_448 * 2 * 32
    assert trainable(model, method="bottleneck", adapter_kind="pfeiffer") == 528_448 * 32


def test_bottlenecks_follow_the_linears_that_end_attention_and_mlp() -> None:
    kinds = {"meta-llama/Llama-3.1-8B": ("o_proj", "down_proj"), "openai-community/gpt2": ("attn.c_proj", "mlp.c_proj")}
    for name, targets in kinds.items():
        method = chosen(published(name), method="adapter")
        assert isinstance(method, Bottleneck)
        assert method.target_modules == targets


def test_ia3_takes_pefts_targets() -> None:
    method = chosen(published("meta-llama/Llama-3.1-8B"), method="ia3")
    assert method == Ia3(target_modules=("k_proj", "v_proj", "down_proj"), feedforward_modules=("down_proj",))
    # a factor a channel: 2 x 1024 for keys and values, 14336 for the MLP's input, 32 layers
    assert trainable(published("meta-llama/Llama-3.1-8B"), method="ia3") == 32 * (2 * 1024 + 14336)


def test_a_prompt_starts_from_text_when_given() -> None:
    assert chosen(make_model_spec(), method="prompt", prompt_init_text="Answer briefly:") == Prompt(
        prompt_tuning_init_text="Answer briefly:"
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "bitfit"}, "no bias terms"),
        ({"method": "prefix", "gradient_checkpointing": True}, "drops the prefix's keys and values"),
        ({"method": "prompt", "packing": True}, "one set of virtual tokens"),
        ({"method": "ptuning", "sequence_length": 4096}, "beyond the"),
        ({"method": "prefix", "rank": 8}, "--rank belongs to --method lora or qlora, not to prefix"),
        ({"virtual_tokens": 8}, "--virtual-tokens belongs to --method prefix or prompt or ptuning, not to lora"),
        ({"method": "ia3", "target": "q_proj", "feedforward": "down_proj"}, "a feed-forward target is one of the"),
        ({"method": "ia3", "target": "all-linear"}, "--target all-linear belongs to LoRA"),
        ({"method": "ln-tuning", "target": "q_proj"}, "has no norm of that name"),
        ({"method": "adapter", "bottleneck_size": 0}, "at least 1"),
        ({"method": "bitfit", "quant": "nf4"}, "quantised weights cannot be trained"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_a_remedy(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        resolve(given, make_model_spec(context_length=4096), CPU)
    assert caught.value.remedy


def test_experts_leave_pfeiffer_nothing_to_follow() -> None:
    with pytest.raises(UsageError, match="its experts are fused parameters"):
        chosen(published("mistralai/Mixtral-8x7B-v0.1"), method="adapter", adapter_kind="pfeiffer")


def test_a_prefix_never_checkpoints_and_says_why() -> None:
    answer = resolve({"method": "prefix"}, make_model_spec(), CPU)
    assert answer.setup.gradient_checkpointing is False
    option = next(option for option in answer.options if option.name == "gradient_checkpointing")
    assert (option.origin, option.because) == ("derived", "checkpointed layers drop a prefix")


def test_a_prefix_before_sliding_caches_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="whose cache slides"):
        chosen(make_model_spec(model_type="gemma2"), method="prefix")


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
def test_the_tables_are_pefts() -> None:
    constants = pytest.importorskip("peft.utils.constants")
    from vramplan.planner.method_targets import IA3, LN_TUNING

    for model_type, (outputs, feedforward) in IA3.items():
        targets = constants.TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING[model_type]
        assert {*outputs, *feedforward} == set(targets), model_type
        assert set(feedforward) == set(constants.TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING[model_type])
    for model_type, norms in LN_TUNING.items():
        assert norms == tuple(constants.TRANSFORMERS_MODELS_TO_LNTUNING_TARGET_MODULES_MAPPING[model_type])


CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "hidden_size": 72, "intermediate_size": 308, "num_hidden_layers": 2, "num_attention_heads": 6,
        "num_key_value_heads": 2, "head_dim": 12, "vocab_size": 300, "max_position_embeddings": 128,
    },
    "gpt2": {"n_embd": 72, "n_layer": 2, "n_head": 6, "vocab_size": 300, "n_positions": 128},
    "opt": {
        "hidden_size": 72, "ffn_dim": 308, "num_hidden_layers": 2, "num_attention_heads": 6, "vocab_size": 300,
        "word_embed_proj_dim": 72, "max_position_embeddings": 128,
    },
}  # fmt: skip
WISHES: dict[str, dict[str, Any]] = {
    "prefix": {"method": "prefix"},
    "prompt": {"method": "prompt", "virtual_tokens": 7},
    "p-tuning": {"method": "ptuning", "encoder_hidden_size": 40},
    "ia3": {"method": "ia3"},
    "houlsby": {"method": "adapter", "bottleneck_size": 9},
    "pfeiffer": {"method": "adapter", "adapter_kind": "pfeiffer"},
    "ln-tuning": {"method": "ln-tuning"},
    "bitfit": {"method": "bitfit"},
    "LoRA and the embeddings": {"method": "lora", "modules_to_save": "embed_tokens,lm_head"},
    "DoRA of the embeddings": {"method": "lora", "target": "q_proj,embed_tokens", "use_dora": True},
    "LoRA and some tokens": {"method": "lora", "trainable_token_indices": "7,9,299", "loss": "standard"},
    "LoRA from PiSSA": {"method": "lora", "init_lora_weights": "pissa_niter_2"},
}


@pytest.mark.train
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wish", WISHES)
@pytest.mark.parametrize("family", CONFIGS)
def test_the_count_equals_the_real_module(family: str, wish: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModelForCausalLM

    from vramplan.planner.trace.adapters import apply_method
    from vramplan.planner.trace.weights import output_embedding, weights_on_meta

    if (family, wish) in (("llama", "bitfit"), ("opt", "ln-tuning")):
        pytest.skip("no biases; no defaults in PEFT")
    if family == "gpt2":
        monkeypatch.setitem(WISHES, "LoRA and the embeddings", {"method": "lora", "modules_to_save": "wte,lm_head"})
        monkeypatch.setitem(WISHES, "DoRA of the embeddings", {"method": "lora", "target": "wte,wpe", "use_dora": True})
    config = AutoConfig.for_model(family, **CONFIGS[family])
    real = AutoModelForCausalLM.from_config(config).to(torch.float32)
    spec = make_model_spec(
        weights=weights_on_meta(real, "fp32"),
        config=config.to_dict(),
        model_type=family,
        context_length=128,
        output_embedding=output_embedding(real),
    )
    setup = resolve({**WISHES[wish], "sequence_length": 32}, spec, CPU).setup
    static = count_static(spec, setup)
    wrapped = apply_method(real, setup.method, adapter_dtype="fp32")
    trains = [p for p in wrapped.parameters() if p.requires_grad]
    assert static.trainable_params == sum(p.numel() for p in trains)
    assert total_bytes(static.trainable, 512) == sum(-(-p.nbytes // 512) * 512 for p in trains)
    assert total_bytes(static.weights, 1) + total_bytes(static.adapter, 1) == sum(
        p.nbytes for p in wrapped.parameters()
    )


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "qlora", "init_lora_weights": "pissa"}, "principal part of unquantised weights alone"),
        ({"init_lora_weights": "loftq"}, "--init-lora-weights loftq is not known"),
        ({"trainable_token_indices": "5,5"}, "not all are different ids below 128256"),
        ({"trainable_token_indices": "128256"}, "not all are different ids below 128256"),
        ({"trainable_token_indices": "5", "target": "embed_tokens"}, "embed_tokens is adapted or trained in full"),
        ({"trainable_token_indices": "5", "modules_to_save": "embed_tokens"}, "is adapted or trained in full"),
        ({"method": "adapter", "target": "embed_tokens"}, "is not a linear layer"),
    ],
)
def test_what_peft_refuses_of_lora_is_refused_by_name(given: dict[str, Any], words: str) -> None:
    with pytest.raises((UsageError, UnsupportedError)) as caught:
        chosen(published("meta-llama/Llama-3.1-8B"), **{"method": "lora", **given})
    assert words in str(caught.value)
    assert caught.value.remedy


def test_trls_fused_loss_cannot_train_tokens_of_tied_embeddings() -> None:
    model = published("meta-llama/Llama-3.2-1B")
    with pytest.raises(UsageError, match="cannot read the head"):
        chosen(model, method="lora", trainable_token_indices="5")
    assert chosen(model, method="lora", trainable_token_indices="5", loss="standard").kind == "lora"


def test_a_router_that_returns_its_routing_wears_no_adapter() -> None:
    name, left_out = "microsoft/Phi-3.5-MoE-instruct", "router"
    method = chosen(published(name), method="lora")
    assert isinstance(method, Lora)
    assert left_out not in method.target_modules
    assert "q_proj" in method.target_modules
    for target in ("all-linear", left_out):
        with pytest.raises(UsageError, match="breaks on the routing"):
            chosen(published(name), method="lora", target=target)
