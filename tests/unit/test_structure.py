"""Which program prices a setup: sizes leave its key alone, what changes the operations changes it."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_model_spec
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.device import Device, Route
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.memory.stack import shortest_stack
from vramplan.planner.memory.structure import layer_kinds, program_key, replay_values
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.program import neighbourhood
from vramplan.planner.training_setup import Precision, TrainingSetup
from vramplan.planner.workload import Workload

SMALL = make_model_spec()
BASE: dict[str, Any] = {"method": Lora(), "micro_batch_size": 2}


def profile(name: str) -> Device | None:
    device, _ = resolve_device(name, memory_bytes=None, reserve_bytes=0)
    return device


def small(**config: Any) -> ModelSpec:
    return make_model_spec(config={**SMALL.config, **config})


def digest(model: ModelSpec = SMALL, length: int = 512, route: Route = "cuda", **setup: Any) -> str:
    workload = Workload(sequence_length=length)
    return program_key(model, workload, TrainingSetup(**{**BASE, **setup}), route, None).digest()


def around(kinds: tuple[str, ...]) -> set[str]:
    return {neighbourhood(kinds, layer, 1) for layer in range(len(kinds))}


# ------------------------------------------------------------------ the stack that is traced
stacks = st.one_of(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=24),
    st.builds(
        lambda cycle, times: cycle * times, st.lists(st.sampled_from("abc"), min_size=1, max_size=6), st.integers(1, 6)
    ),
).map(tuple)


@given(stacks)
def test_the_short_stack_shows_every_neighbourhood_of_the_long_one(kinds: tuple[str, ...]) -> None:
    short = shortest_stack(kinds)
    assert around(kinds) <= around(short)
    assert min(4, len(kinds)) <= len(short) <= len(kinds)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_a_stack_of_up_to_four_layers_is_traced_as_it_is(depth: int) -> None:
    assert shortest_stack(("a",) * depth) == ("a",) * depth


@pytest.mark.parametrize("depth", [5, 32, 126])
def test_a_uniform_stack_is_four_layers(depth: int) -> None:
    assert shortest_stack(("a",) * depth) == ("a",) * 4


def test_alternating_layers_are_seen_first_last_and_between() -> None:
    # Gemma 2: sliding and full in turn. Of each kind: the first, one between, the last.
    assert shortest_stack(("s", "f") * 21) == ("s", "f") * 3


# ------------------------------------------------------------------ layers
def test_layer_kinds_of_published_models() -> None:
    gemma = layer_kinds(resolve_model("google/gemma-3-1b-pt", online=False))
    assert len(gemma) == 26
    assert [layer for layer, kind in enumerate(gemma) if kind == "full_attention"] == [5, 11, 17, 23]  # five to one
    smol = layer_kinds(resolve_model("HuggingFaceTB/SmolLM3-3B", online=False))
    assert [layer for layer, kind in enumerate(smol) if kind.endswith("/nope")] == list(range(3, 36, 4))
    assert set(layer_kinds(resolve_model("meta-llama/Llama-3.1-8B", online=False))) == {"full_attention"}


def test_a_config_whose_layer_types_do_not_add_up_is_refused() -> None:
    with pytest.raises(NoProgramError, match="num_hidden_layers"):
        layer_kinds(small(layer_types=["full_attention"] * 3))


def test_the_values_are_the_configs_and_the_batchs() -> None:
    model = resolve_model("meta-llama/Llama-3.1-8B", online=False)
    setup = TrainingSetup(method=Lora(r=8), micro_batch_size=3)
    values = replay_values(model, Workload(sequence_length=100), setup)
    assert values == {
        "h": 4096, "f": 14336, "H": 32, "K": 8, "d": 128, "V": 128256, "B": 3, "S": 100, "N": 297, "r": 8,
    }  # fmt: skip
    # a row of 100 tokens has 99 next tokens; a tenth of 297 of them carry loss
    assert replay_values(model, Workload(sequence_length=100, valid_label_fraction=0.1), setup)["N"] == 30


# ------------------------------------------------------------------ keys
@pytest.mark.parametrize(
    "config",
    [
        {"hidden_size": 128, "intermediate_size": 999, "vocab_size": 50_000},
        {"num_attention_heads": 8, "num_key_value_heads": 2},
        {"head_dim": 64},
        {"max_position_embeddings": 131_072, "rope_theta": 5e5, "rms_norm_eps": 1e-6},
    ],
)
def test_sizes_do_not_change_the_key(config: Mapping[str, Any]) -> None:
    assert digest(small(**config)) == digest()


def test_depth_rank_batch_and_length_do_not_change_the_key() -> None:
    assert digest(small(num_hidden_layers=40)) == digest(small(num_hidden_layers=32))
    assert digest(method=Lora(r=64, lora_alpha=128)) == digest(method=Lora(r=1))
    assert digest(micro_batch_size=7) == digest(micro_batch_size=2)
    assert digest(gradient_accumulation_steps=8, optimizer="sgd") == digest()
    assert digest(length=8192) == digest(length=17)


def test_two_published_models_of_one_structure_share_a_program() -> None:
    names = ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B")
    assert len({digest(resolve_model(name, online=False)) for name in names}) == 1


@pytest.mark.parametrize(
    "config",
    [
        {"tie_word_embeddings": True},
        {"num_key_value_heads": 4},  # as many as heads
        {"num_key_value_heads": 1},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"final_logit_softcapping": 30.0},
        {"head_dim": 20},  # FlashAttention pads it
        {"head_dim": 512},  # FlashAttention does not take it
        {"num_hidden_layers": 3},
    ],
)
def test_what_changes_the_operations_changes_the_key(config: Mapping[str, Any]) -> None:
    deep = {"num_hidden_layers": 32}
    assert digest(small(**deep | config)) != digest(small(**deep))


@pytest.mark.parametrize(
    "setup",
    [
        {"method": Full()},
        {"method": Qlora()},
        {"method": Lora(target_modules=("q_proj", "v_proj"))},
        {"gradient_checkpointing": False},
        {"attention": "eager"},
        {"loss": "standard"},
        {"micro_batch_size": 1},
        {"precision": Precision(mixed_precision="bf16")},
        {"precision": Precision(dtype="fp32")},
        {"precision": Precision(adapter_dtype="bf16")},
    ],
)
def test_modes_have_keys_of_their_own(setup: Mapping[str, Any]) -> None:
    assert digest(**setup) != digest()


def test_routes_and_quantisations_have_keys_of_their_own() -> None:
    assert digest(route="cpu") != digest(route="cuda")
    methods = (Qlora(), Qlora(quant="fp4"), Qlora(double_quant=False))
    assert len({digest(method=method) for method in methods}) == 3


def test_cudnn_matters_where_flash_attention_would_not_run() -> None:
    """FlashAttention refuses masks and heads of two sizes (sdp_utils.cpp); elsewhere the two allocate the same."""

    def same(model: ModelSpec, **setup: Any) -> bool:
        made = TrainingSetup(method=Lora(), micro_batch_size=2, **setup)
        keys = {
            program_key(model, Workload(sequence_length=64), made, "cuda", profile(name)).digest()
            for name in ("NVIDIA H100 SXM5 80 GB", "NVIDIA A100 SXM4 80 GB")
        }
        return len(keys) == 1

    deepseek = resolve_model("deepseek-ai/DeepSeek-V3", online=False)
    assert same(SMALL)
    assert not same(SMALL, padding="right")
    assert not same(deepseek)


def test_devices_without_flash_attention_have_programs_of_their_own_in_half_precision() -> None:
    """FlashAttention needs compute capability 8.0 (sdp_utils.cpp, check_flash_attention_hardware_support); in fp32
    nothing has it."""

    def same(**precision: Any) -> bool:
        made = TrainingSetup(method=Full(), precision=Precision(**precision))
        keys = {
            program_key(SMALL, Workload(sequence_length=64), made, "cuda", profile(name)).digest()
            for name in ("NVIDIA Tesla T4", "NVIDIA A100 SXM4 80 GB")
        }
        return len(keys) == 1

    assert not same(dtype="fp32", mixed_precision="fp16")
    assert same(dtype="fp32", mixed_precision="no")


def test_the_order_of_targets_is_no_structure() -> None:
    one, other = (Lora(target_modules=names) for names in (("q_proj", "v_proj"), ("v_proj", "q_proj")))
    assert digest(method=one) == digest(method=other)


def test_every_linear_by_name_is_all_linear() -> None:
    seven = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    for method in (Lora, Qlora):
        assert digest(method=method(target_modules=seven)) == digest(method=method())
        assert digest(method=method(target_modules=seven[1:])) != digest(method=method())
        assert digest(method=method(target_modules=(*seven, "embed_tokens"))) != digest(method=method())


@pytest.mark.parametrize(("length", "masked"), [(4095, False), (4096, True), (4097, True)])
def test_a_sequence_as_long_as_the_window_needs_a_mask(length: int, masked: bool) -> None:
    # transformers/masking_utils.py, _ignore_causal_mask_sdpa: no mask only while kv_length < local_attention_size
    model = resolve_model("mistralai/Mistral-7B-v0.1", online=False)
    assert model.config["sliding_window"] == 4096
    key = program_key(model, Workload(sequence_length=length), TrainingSetup(**BASE), "cuda", None)
    assert key.structure.windowed is masked


def test_a_window_that_no_layer_uses_needs_no_mask() -> None:
    key = program_key(
        small(sliding_window=64, layer_types=["full_attention"] * 2),
        Workload(sequence_length=512),
        TrainingSetup(**BASE),
        "cuda",
        None,
    )
    assert not key.structure.windowed


def test_in_other_families_the_sizes_are_part_of_the_structure() -> None:
    def other(**config: Any) -> ModelSpec:
        return make_model_spec(model_type="another", config={**SMALL.config, **config})

    assert digest(other()) == digest(other(), length=77, method=Lora(r=3))
    assert digest(other()) == digest(other(torch_dtype="float16", bos_token_id=7))
    assert digest(other()) != digest(other(hidden_size=128))


def test_layers_of_other_families_are_told_apart_by_their_weights() -> None:
    # DeepSeek-V2-Lite: the first layer is dense, the other 26 are mixtures of experts
    kinds = layer_kinds(resolve_model("deepseek-ai/DeepSeek-V2-Lite", online=False))
    assert len(kinds) == 27
    assert kinds[0] not in kinds[1:]
    assert len(set(kinds[1:])) == 1


# ------------------------------------------------------------------ refusals
def test_a_rank_runs_the_program_of_one_device() -> None:
    assert digest(sharding="ddp", gpus=8) == digest()
    assert digest(sharding="fsdp", gpus=8, nodes=2, offload="all") == digest()


def test_a_model_of_another_tasks_class_is_refused_with_its_own_task() -> None:
    with pytest.raises(NoProgramError, match=r"not trained for classification\n.*--task causal-lm"):
        program_key(SMALL, Workload(task="classification", sequence_length=8), TrainingSetup(**BASE), "cuda", None)


def test_a_sequence_of_one_token_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="no next token"):
        digest(length=1)


def test_a_model_without_repeated_layers_is_refused() -> None:
    flat = tuple(weight for weight in SMALL.weights if not weight.layers)
    with pytest.raises(NoProgramError, match="no repeated layers"):
        digest(make_model_spec(model_type="another", weights=flat))


def test_a_model_without_a_head_is_refused() -> None:
    with pytest.raises(NoProgramError, match="LlamaModel"):
        digest(make_model_spec(architecture="LlamaModel"))


def test_a_model_that_skips_layers_on_text_is_refused_by_name_and_its_text_only_sibling_is_not() -> None:
    from vramplan.planner.tasks import task_of

    # config.json of Llama-3.2-11B-Vision: cross_attention_layers 3, 8, 13 ... 38, of 40
    with pytest.raises(UnsupportedError, match="skips 8 of its layers on text") as refused:
        task_of(resolve_model("meta-llama/Llama-3.2-11B-Vision", online=False))
    assert refused.value.remedy
    assert task_of(resolve_model("meta-llama/Llama-3.1-8B", online=False)) == "causal-lm"
