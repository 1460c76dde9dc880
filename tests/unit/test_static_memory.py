"""Static memory against papers' numbers, published counts and modules that exist."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_model_spec
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.errors import UsageError
from vramplan.planner.memory.static import Group, StaticMemory, count_static, is_quantized, total_bytes
from vramplan.planner.methods import Full, Lora, Method, Qlora
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.training_setup import Precision, TrainingSetup

SMALL = make_model_spec()


def counted(method: Method, model: ModelSpec = SMALL, **precision: str) -> StaticMemory:
    return count_static(model, TrainingSetup(method=method, precision=Precision.model_validate(precision)))


def of_one_linear(rows: int, columns: int) -> ModelSpec:
    weight = Weight(
        name="model.layers.{layer}.mlp.up_proj.weight", shape=(rows, columns), dtype="bf16", module="linear"
    )
    return make_model_spec(weights=(weight.model_copy(update={"layers": (0,)}),))


def published(name: str) -> ModelSpec:
    return resolve_model(name, online=False)


def test_a_rank_16_adapter_on_a_4096_square_is_128_times_smaller_than_it() -> None:
    # 16 x (4096 + 4096) = 131,072; 4096 x 4096 / 131,072 = 128 (the arithmetic of Hu et al., 2021, section 4.2)
    static = counted(Lora(r=16), of_one_linear(4096, 4096))
    assert static.trainable_params == 131_072
    assert 128 * static.adapter_params == 4096 * 4096


@pytest.mark.parametrize(
    ("name", "trainable"),
    [
        ("meta-llama/Llama-3.1-8B", 41_943_040),  # "trainable params: 41,943,040" of PEFT's print_trainable_parameters
        ("meta-llama/Llama-2-7b-hf", 39_976_960),  # the same of Llama 2 7B
        ("tiiuae/falcon-7b", 32_636_928),  # linears of a class of their own
        ("openai-community/gpt2", 2_359_296),  # Conv1D: 16 x (768 + 2304 + 768 + 768 + 2 x (768 + 3072)) x 12
    ],
)
def test_all_linear_rank_16_trains_what_peft_prints(name: str, trainable: int) -> None:
    model = published(name)
    assert counted(Lora(r=16), model).trainable_params == trainable
    assert counted(Qlora(r=16), model).trainable_params == trainable


def test_full_fine_tuning_trains_every_published_parameter() -> None:
    # parameter counts and the size of the bf16 checkpoint as the Hub's safetensors index gives them
    assert counted(Full(), published("meta-llama/Llama-3.2-3B")).trainable_params == 3_212_749_824
    weights = counted(Full(), published("meta-llama/Llama-3.1-8B")).weights
    assert total_bytes(weights, 1) == 16_060_522_496


@pytest.mark.parametrize(("double_quant", "bits"), [(True, 4.127), (False, 4.5)])
def test_a_4_bit_weight_costs_what_the_paper_says(double_quant: bool, bits: float) -> None:
    # Dettmers et al., 2023, section 3: 32/64 bits a parameter become 8/64 + 32/(64 x 256) = 0.127
    static = counted(Qlora(double_quant=double_quant), of_one_linear(8192, 28672))
    taken = total_bytes(static.weights, 1) + total_bytes(static.quantization_state, 1)
    assert round(8 * taken / (8192 * 28672), 3) == bits
    assert static.quantized_params == 8192 * 28672


def test_a_quantised_linear_worked_by_hand() -> None:
    # 100 x 333 = 33,300 elements: 16,650 bytes packed, 521 blocks of 64 (the last of 20), 3 second-level blocks
    static = counted(Qlora(), of_one_linear(100, 333))
    assert [(g.numel, g.element_bytes, g.count) for g in static.weights] == [(16_650, 1, 1)]
    # absmax, its second level, the code books of 16 and 256 fp32, the fp32 offset
    assert total_bytes(static.quantization_state, 1) == 521 + 3 * 4 + 16 * 4 + 256 * 4 + 4
    # on CUDA each of the five is its own allocation: 1024 + 512 + 512 + 1024 + 512
    assert total_bytes(static.quantization_state, 512) == 3584
    # 4096 x 4096: 262,144 blocks, and one fp32 for each 256 of them
    large = counted(Qlora(), of_one_linear(4096, 4096)).quantization_state
    assert total_bytes(large, 1) == 262_144 + 1024 * 4 + 16 * 4 + 256 * 4 + 4


def test_the_head_the_embeddings_and_the_norms_are_not_quantised() -> None:
    plain = {w.name for w in SMALL.weights if not is_quantized(w, SMALL)}
    layer = "model.layers.{layer}"
    norms = {f"{layer}.input_layernorm.weight", f"{layer}.post_attention_layernorm.weight", "model.norm.weight"}
    assert plain == {"lm_head.weight", "model.embed_tokens.weight"} | norms
    # of Llama 3.1 8B: 8,030,261,248 parameters, less 2 x 128256 x 4096 and 65 norms of 4096
    assert counted(Qlora(), published("meta-llama/Llama-3.1-8B")).quantized_params == 6_979_321_856


def test_fused_experts_stay_in_the_dtype_of_the_base() -> None:
    experts = Weight(
        name="model.layers.{layer}.mlp.experts.down_proj",
        shape=(8, 64, 176),
        dtype="bf16",
        module="experts",
        layers=(0,),
    )
    static = counted(Qlora(), make_model_spec(weights=(experts,)))
    assert static.quantized_params == 0
    assert total_bytes(static.weights, 1) == 8 * 64 * 176 * 2


def test_a_bias_of_a_linear_is_neither_quantised_nor_adapted() -> None:
    name = "model.layers.{layer}.self_attn.q_proj"
    weight = Weight(name=f"{name}.weight", shape=(64, 64), dtype="bf16", module="linear", layers=(0,))
    bias = Weight(name=f"{name}.bias", shape=(64,), dtype="bf16", module="linear", layers=(0,))
    static = counted(Qlora(r=4), make_model_spec(weights=(weight, bias)))
    assert static.quantized_params == 64 * 64
    assert static.trainable_params == 4 * (64 + 64)


def test_a_target_that_matches_nothing_is_answered_with_the_linears_there_are() -> None:
    with pytest.raises(UsageError) as refused:
        counted(Lora(target_modules=("q_proj", "c_attn")))
    assert "c_attn" in refused.value.message
    assert "q_proj" in str(refused.value.remedy)
    assert "down_proj" in str(refused.value.remedy)


@pytest.mark.parametrize("target", ["q_proj", "self_attn.q_proj"])
def test_a_target_is_the_end_of_a_dotted_name_as_in_peft(target: str) -> None:
    # two layers of 64 x 64 at rank 4
    assert counted(Lora(r=4, target_modules=(target,))).trainable_params == 2 * 4 * (64 + 64)


def test_part_of_a_name_is_no_target() -> None:
    with pytest.raises(UsageError):
        counted(Lora(target_modules=("proj",)))


def test_dtypes_are_the_setups() -> None:
    static = counted(Lora(r=4), dtype="fp16", adapter_dtype="bf16")
    assert {g.element_bytes for g in static.weights} == {2}
    assert {g.element_bytes for g in static.adapter} == {2}
    assert {g.element_bytes for g in counted(Full(), dtype="fp32").trainable} == {4}


def test_norms_do_not_decay_and_the_embedding_is_known_to_the_8_bit_optimizer() -> None:
    static = counted(Full())
    assert sum(g.count for g in static.trainable if not g.decays) == 5  # two a layer and the last
    assert [g.numel for g in static.trainable if g.embedding] == [256 * 64]


@given(st.integers(1, 512), st.integers(1, 512))
def test_adapters_grow_with_the_rank(one: int, other: int) -> None:
    low, high = (counted(Lora(r=r)) for r in sorted((one, other)))
    assert low.adapter_params <= high.adapter_params
    assert total_bytes(low.adapter, 512) <= total_bytes(high.adapter, 512)
    assert total_bytes(low.weights, 512) == total_bytes(high.weights, 512)


@given(st.integers(1, 10**9), st.sampled_from([1, 2, 4]), st.integers(1, 200))
def test_cuda_rounds_every_tensor_up_to_512_bytes(numel: int, element_bytes: int, count: int) -> None:
    group = Group(numel, element_bytes, count)
    asked, given_bytes = group.rounded(1), group.rounded(512)
    assert asked == numel * element_bytes * count
    assert given_bytes % 512 == 0
    assert 0 <= given_bytes - asked < 512 * count


# ------------------------------------------------------------------ against modules that exist
CONFIG = {
    "hidden_size": 72,
    "intermediate_size": 308,  # 308 x 72 elements: 347 blocks of 64, the last not full, over two second-level blocks
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "vocab_size": 300,
}


def storage_bytes(tensors: list[Any]) -> int:
    """Bytes of distinct storages."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def quantise(model: Any, double_quant: bool) -> None:
    """bitsandbytes' own quantisation of every linear but the head; a Conv1D is a linear stored the other way round."""
    bnb = pytest.importorskip("bitsandbytes")
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kind = {"compress_statistics": double_quant, "quant_type": "nf4"}
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) not in (nn.Linear, Conv1D) or name == "lm_head":
                continue
            weight = child.weight.data if type(child) is nn.Linear else child.weight.data.T.contiguous()
            linear = bnb.nn.Linear4bit(weight.shape[1], weight.shape[0], bias=False, **kind)
            linear.weight = bnb.nn.Params4bit(weight, requires_grad=False, **kind)
            linear.bias = child.bias
            setattr(module, name, linear.to("cpu"))


@pytest.mark.train
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:fan_in_fan_out:UserWarning")
@pytest.mark.parametrize("family", ["llama", "llama tied", "gpt2"])
@pytest.mark.parametrize(
    "method",
    [Full(), Lora(r=5), Qlora(r=5), Qlora(r=5, double_quant=False)],
    ids=["full", "lora", "qlora-double", "qlora-single"],
)
def test_the_count_equals_real_modules(method: Method, family: str) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

    from vramplan.planner.trace.weights import weights_on_meta

    config = LlamaConfig(**CONFIG, tie_word_embeddings=family == "llama tied")
    if family == "gpt2":
        config = GPT2Config(n_embd=72, n_layer=2, n_head=6, vocab_size=300, n_positions=64)
    real = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    spec = make_model_spec(weights=weights_on_meta(real, "bf16"), config=config.to_dict())
    static = counted(method, spec, dtype="bf16", adapter_dtype="fp32")
    if isinstance(method, Qlora):
        quantise(real, method.double_quant)
    wrapped = real
    if not isinstance(method, Full):
        targets = method.target_modules if isinstance(method.target_modules, str) else list(method.target_modules)
        lora = peft.LoraConfig(task_type="CAUSAL_LM", r=method.r, target_modules=targets)
        wrapped = peft.get_peft_model(real, lora, autocast_adapter_dtype=True)
    adapter = [p for name, p in wrapped.named_parameters() if "lora_" in name]
    base = [p for name, p in wrapped.named_parameters() if "lora_" not in name]
    states = [p.quant_state for p in base if getattr(p, "quant_state", None) is not None]
    levels = [level for state in states for level in (state, state.state2) if level is not None]
    state_tensors = [t for level in levels for t in (level.absmax, level.code, level.offset) if t is not None]
    assert total_bytes(static.weights, 1) == storage_bytes(base)
    assert total_bytes(static.adapter, 1) == storage_bytes(adapter)
    assert total_bytes(static.quantization_state, 1) == storage_bytes(state_tensors)
    assert static.trainable_params == sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    assert static.adapter_params == sum(p.numel() for p in adapter)
