"""What each method adds to Llama 3.1 8B, from its paper's arithmetic: 32 layers of 4096, 8 key/value heads of 128, MLPs
of 14336, 128,256 tokens."""

import pytest

from tests.fakes import make_model_spec
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.errors import UsageError
from vramplan.planner.memory.static import StaticMemory, count_static, total_bytes
from vramplan.planner.memory.static_methods import (
    check_biases,
    check_norms,
    hidden_size,
    input_embeddings,
    prefix_layers,
    trained_copies,
)
from vramplan.planner.methods import Bitfit, Bottleneck, Ia3, LnTuning, Lora, Method, Prefix, Prompt, Ptuning, Qlora
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.training_setup import Precision, TrainingSetup

LAYERS, H, F, KV, VOCABULARY = 32, 4096, 14336, 8 * 128, 128_256


def published(name: str) -> ModelSpec:
    return resolve_model(name, online=False)


LLAMA = published("meta-llama/Llama-3.1-8B")


def counted(method: Method, model: ModelSpec = LLAMA) -> StaticMemory:
    return count_static(model, TrainingSetup(method=method, precision=Precision(dtype="bf16", adapter_dtype="fp32")))


@pytest.mark.parametrize(
    ("method", "trained"),
    [
        # Liu et al., 2022: a factor for each key, each value, and each input of the MLP's last projection
        (
            Ia3(target_modules=("k_proj", "v_proj", "down_proj"), feedforward_modules=("down_proj",)),
            LAYERS * (KV + KV + F),
        ),
        # without feed-forward modules its output is scaled
        (Ia3(target_modules=("down_proj",)), LAYERS * H),
        # two norms a layer and the last
        (LnTuning(target_modules=("input_layernorm", "post_attention_layernorm", "norm")), (2 * LAYERS + 1) * H),
        # Pfeiffer et al., 2021: down, up and their biases after the MLP; Houlsby et al., 2019: after attention too
        (
            Bottleneck(adapter_kind="pfeiffer", bottleneck_size=64, target_modules=("down_proj",)),
            LAYERS * (2 * H * 64 + 64 + H),
        ),
        (
            Bottleneck(adapter_kind="houlsby", bottleneck_size=16, target_modules=("o_proj", "down_proj")),
            LAYERS * 2 * (2 * H * 16 + 16 + H),
        ),
        # Lester et al., 2021; Li and Liang, 2021: a key and a value for each layer, in PEFT as wide as the model's own
        (Prompt(num_virtual_tokens=20), 20 * H),
        (Prefix(num_virtual_tokens=30), 30 * LAYERS * 2 * KV),
        # three linears with biases
        (
            Ptuning(num_virtual_tokens=20, encoder_hidden_size=128),
            20 * H + (H * 128 + 128) + (128 * 128 + 128) + (128 * H + H),
        ),
        # Liu et al., 2024: DoRA adds a magnitude for each output of q_proj
        (Lora(r=8, target_modules=("q_proj",), use_dora=True), LAYERS * (8 * (H + H) + H)),
        # a table under LoRA is (vocabulary, h); rows of it alone; the head as a copy
        (Lora(r=8, target_modules=("embed_tokens",)), 8 * (VOCABULARY + H)),
        (Lora(r=8, target_modules=("k_proj",), trainable_token_indices=(5, 7, 9)), LAYERS * 8 * (H + KV) + 3 * H),
        (Lora(r=8, target_modules=("k_proj",), modules_to_save=("lm_head",)), LAYERS * 8 * (H + KV) + VOCABULARY * H),
    ],
    ids=lambda value: value.kind if hasattr(value, "kind") else "",
)
def test_a_method_trains_what_its_paper_adds(method: Method, trained: int) -> None:
    static = counted(method)
    assert static.trainable_params == static.adapter_params == trained
    assert total_bytes(static.adapter, 1) == 4 * trained


def test_an_lstm_behind_virtual_tokens_is_torchs() -> None:
    # torch.nn.LSTM(h, e, num_layers=2, bidirectional=True): input, state and two biases for four gates, both ways
    e = 96
    first, second = 2 * (4 * e * H + 4 * e * e + 8 * e), 2 * (4 * e * 2 * e + 4 * e * e + 8 * e)
    linears = (2 * e * 2 * e + 2 * e) + (2 * e * H + H)
    method = Ptuning(num_virtual_tokens=4, encoder_reparameterization_type="LSTM", encoder_hidden_size=e)
    assert counted(method).adapter_params == 4 * H + first + second + linears


def test_a_classifiers_head_trains_whole_and_wears_no_adapter() -> None:
    # PEFT keeps `score` of a sequence classifier as a trained copy: two classes here, beside rank 16 on every linear
    classifier = model_for_task(LLAMA, "classification", 2)
    assert counted(Lora(r=16), classifier).trainable_params == 41_943_040 + 2 * H


def test_an_8_bit_base_is_a_byte_a_weight_and_an_fp32_for_each_row() -> None:
    # q and o of 4096 rows, k and v of 1024, gate and up of 14336, down of 4096
    static = counted(Qlora(r=8, quant="int8"))
    rows = LAYERS * (3 * H + 2 * KV + 2 * F)
    weights = LAYERS * (2 * H * H + 2 * H * KV + 3 * H * F)
    assert total_bytes(static.quantization_state, 1) == 4 * rows
    assert static.quantized_params == weights
    others = 2 * VOCABULARY * H + (2 * LAYERS + 1) * H
    assert total_bytes(static.weights, 1) == weights + 2 * others


def test_bitfit_trains_biases_and_a_model_without_any_is_refused() -> None:
    # Qwen2.5 0.5B: 24 layers with biases on q (896), k and v (128 each)
    qwen = published("Qwen/Qwen2.5-0.5B")
    assert counted(Bitfit(), qwen).trainable_params == 24 * (896 + 128 + 128)
    check_biases(qwen)
    with pytest.raises(UsageError, match="no bias terms"):
        check_biases(LLAMA)


def test_a_tied_head_trained_as_a_copy_parts_from_the_embeddings() -> None:
    qwen = published("Qwen/Qwen2.5-0.5B")  # 151,936 x 896, tied
    names = [(weight.name, weight.numel) for weight in trained_copies(qwen, ("lm_head",))]
    assert names == [("lm_head.weight", 151_936 * 896)]
    assert [weight.name for weight in trained_copies(qwen, ("embed_tokens", "lm_head"))] == [
        "model.embed_tokens.weight", "lm_head.weight",
    ]  # fmt: skip
    table = input_embeddings(qwen)
    assert table is not None
    assert table.name == "model.embed_tokens.weight"


@pytest.mark.parametrize("method", [Lora(target_modules=("gate",)), Ia3(target_modules=("gate",))])
def test_a_target_that_is_nothing_is_answered_with_what_there_is(method: Method) -> None:
    with pytest.raises(UsageError, match="has no linear of that name") as caught:
        counted(method)
    assert "down_proj, gate_proj, k_proj" in (caught.value.remedy or "")


def test_a_norm_that_is_not_there_is_answered_with_the_norms() -> None:
    with pytest.raises(UsageError, match="has no norm of that name") as caught:
        check_norms(LLAMA, ("layer_norm",))
    assert caught.value.remedy == "its norms are: input_layernorm, norm, post_attention_layernorm"


def test_a_config_that_does_not_say_a_size_is_told_so() -> None:
    assert hidden_size({"n_embd": 768}) == 768
    with pytest.raises(UsageError, match="does not say its hidden size"):
        hidden_size({"vocab_size": 5})
    with pytest.raises(UsageError, match="does not say how many layers"):
        prefix_layers(make_model_spec(config={"hidden_size": 64}))
