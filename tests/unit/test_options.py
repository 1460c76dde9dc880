"""From options to a setup: the design's defaults, what is derived, and what is refused with a remedy."""

from typing import Any

import pytest
from hypothesis import given as property_of
from hypothesis import strategies as st

from tests.fakes import make_cpu, make_device, make_model_spec
from vramplan.planner.errors import ExitCode, UnsupportedError, UsageError
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.model_spec import Weight
from vramplan.planner.resolve import Resolved, resolve
from vramplan.planner.workload import RowLengths

MODEL = make_model_spec()
AMPERE = make_device(name="NVIDIA A100", compute_capability=(8, 0))
TURING = make_device(name="Tesla T4", compute_capability=(7, 5), bf16_native=False, flash_attention_2=False)


def resolved(device: Any = AMPERE, **given: Any) -> Resolved:
    return resolve(given, MODEL, device)


def origins(answer: Resolved) -> dict[str, str]:
    return {option.name: option.origin for option in answer.options}


def test_with_nothing_given_the_designs_defaults_hold() -> None:
    answer = resolved(method="lora")
    setup = answer.setup
    assert answer.workload.sequence_length == 1024
    assert (setup.micro_batch_size, setup.gradient_accumulation_steps) == (1, 16)
    assert setup.method == Lora(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
    assert (setup.gradient_checkpointing, setup.optimizer, setup.loop) == (True, "adamw_torch_fused", "executor")
    assert setup.precision.model_dump() == {"dtype": "bf16", "mixed_precision": "bf16", "adapter_dtype": "fp32"}
    assert (setup.loss, setup.kbit_preparation, setup.packing) == ("fused", False, False)
    assert resolved(method="qlora").setup.method == Qlora(quant="nf4", double_quant=True)


def test_every_option_says_where_it_came_from_and_which_flag_changes_it() -> None:
    answer = resolved(method="qlora", rank=8)
    by_name = {option.name: option for option in answer.options}
    assert by_name["rank"].model_dump() == {
        "name": "rank", "value": 8, "origin": "given", "flag": "--rank", "because": None,
    }  # fmt: skip
    assert (by_name["alpha"].origin, by_name["alpha"].value) == ("default", 32)
    assert by_name["adapter_dtype"].origin == "derived"
    assert by_name["gradient_checkpointing"].flag == "--no-gradient-checkpointing"
    assert by_name["packing"].flag == "--packing"
    assert by_name["gradient_accumulation_steps"].because == "16 sequences a step / micro batch 1"


def test_more_tokens_than_the_longest_row_has_are_not_priced_and_what_was_asked_for_is_said() -> None:
    answer = resolve({"sequence_length": 1000}, MODEL, AMPERE, rows=RowLengths(longest_row=237))
    option = next(option for option in answer.options if option.name == "sequence_length")
    assert answer.workload.sequence_length == option.value == 237
    assert option.because == "the longest row of the data; 1000 were asked for"


def test_the_sequence_length_stops_at_the_models_limit() -> None:
    short = make_model_spec(context_length=512)
    answer = resolve({}, short, AMPERE)
    assert answer.workload.sequence_length == 512
    assert origins(answer)["sequence_length"] == "derived"
    with pytest.raises(UsageError, match="beyond the 512 tokens"):
        resolve({"sequence_length": 513}, short, AMPERE)


@pytest.mark.parametrize(
    ("given", "accumulation", "sequences"),
    [
        ({"micro_batch": 4}, 4, 16),
        ({"micro_batch": 3}, 6, 18),
        ({"micro_batch": 64}, 1, 64),
        ({"tokens_per_step": 32768, "micro_batch": 2}, 16, 32),
        ({"tokens_per_step": 100}, 1, 1),
        ({"gradient_accumulation_steps": 5, "micro_batch": 2}, 5, 10),
    ],
)
def test_accumulation_follows_from_the_size_of_a_step(given: Any, accumulation: int, sequences: int) -> None:
    answer = resolved(**given)
    assert answer.setup.gradient_accumulation_steps == accumulation
    assert answer.workload.sequences_per_step == sequences


@property_of(
    micro=st.integers(1, 4096), tokens=st.none() | st.integers(1, 2**20), length=st.integers(1, MODEL.context_length)
)
def test_a_step_holds_at_least_what_was_asked_and_less_than_one_micro_batch_more(
    micro: int, tokens: int | None, length: int
) -> None:
    answer = resolved(micro_batch=micro, tokens_per_step=tokens, sequence_length=length)
    asked = 16 if tokens is None else tokens / length
    assert asked - 0.5 <= answer.workload.sequences_per_step < max(asked + 0.5, 1) + micro


def test_a_cpu_trains_in_fp32_without_autocast() -> None:
    answer = resolved(make_cpu(), method="lora")
    assert answer.setup.precision.model_dump() == {"dtype": "fp32", "mixed_precision": "no", "adapter_dtype": "fp32"}
    assert origins(answer)["dtype"] == "derived"


def test_a_card_before_ampere_trains_fp32_weights_or_adapters_under_fp16_autocast() -> None:
    full = resolved(TURING, method="full").setup.precision
    assert (full.dtype, full.mixed_precision) == ("fp32", "fp16")
    for method in ("lora", "qlora"):
        answer = resolved(TURING, method=method)
        precision = answer.setup.precision
        assert (precision.dtype, precision.mixed_precision, precision.adapter_dtype) == ("fp16", "fp16", "fp32")
        assert "Tesla T4 has no bf16" in {option.because for option in answer.options}


def test_with_no_device_an_ampere_class_card_is_assumed() -> None:
    assert resolved(None, method="lora").setup.precision.mixed_precision == "bf16"


@pytest.mark.parametrize(("loop", "dtype"), [("executor", "bf16"), ("trainer", "fp32"), ("plain", "fp32")])
def test_qlora_adapters_have_the_dtype_the_loop_gives_them(loop: str, dtype: str) -> None:
    assert resolved(method="qlora", loop=loop).setup.precision.adapter_dtype == dtype


@pytest.mark.parametrize(("loop", "loss"), [("executor", "fused"), ("trainer", "standard"), ("plain", "standard")])
def test_the_loss_is_what_the_loop_runs(loop: str, loss: str) -> None:
    assert resolved(loop=loop).setup.loss == loss


def test_quantised_lora_is_qlora_and_bottleneck_is_adapter() -> None:
    assert resolved(method="lora", quant="fp4").setup.method == Qlora(quant="fp4")
    assert resolved(quant="nf4").setup.method == Qlora()
    assert resolved(method="bottleneck").setup.method.kind == "adapter"


def test_full_fine_tuning_has_no_adapter_options() -> None:
    answer = resolved(method="full")
    assert answer.setup.method == Full()
    assert not {"rank", "alpha", "target", "adapter_dtype"} & set(origins(answer))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"method": "full", "quant": "nf4"}, "quantised weights cannot be trained"),
        ({"method": "full", "rank": 8}, "--rank belongs to an adapter"),
        ({"method": "lora", "kbit_preparation": True}, "--kbit-preparation belongs to a quantised base"),
        ({"method": "lora", "double_quant": False}, "--no-double-quant belongs to a quantised base"),
        ({"offload": "optimizer"}, "--offload exists only with FSDP2 or ZeRO"),
        ({"offload": "all", "sharding": "ddp"}, "--offload exists only with FSDP2 or ZeRO"),
        ({"packing": True, "padding": "right"}, "nothing to pad"),
        ({"rank": 0}, "--rank 0 is not possible"),
        ({"rank": -4}, "--rank -4 is not possible"),
        ({"rank": 10**9}, "--rank 1000000000 is not possible"),
        ({"micro_batch": 2**21}, "--micro-batch 2097152 is not possible"),
        ({"sequence_length": 0}, "--sequence-length 0 is not possible"),
        ({"lora_dropout": 1.0}, "--lora-dropout 1.0 is not possible"),
        ({"lora_dropout": -0.1}, "--lora-dropout -0.1 is not possible"),
        ({"valid_labels": 0.0}, "--valid-labels 0.0 is not possible"),
        ({"learning_rate": float("nan")}, "--learning-rate nan is not possible"),
        ({"learning_rate": 0.0}, "--learning-rate 0.0 is not possible"),
        ({"max_steps": 0}, "--max-steps 0 is not possible"),
        ({"target": "q_proj,v_porj"}, "--target v_porj matches no module"),
        ({"target": "lm_head"}, "its adapter would never train"),
        ({"target": "input_layernorm"}, "is not a linear layer"),
        ({"target": ","}, "--target names no module"),
        ({"dtype": "fp16", "method": "full"}, "fp16 weights cannot be trained"),
        ({"dtype": "fp16", "mixed_precision": "bf16"}, "the two half precisions do not mix"),
        ({"dtype": "bf16", "mixed_precision": "fp16"}, "the two half precisions do not mix"),
        ({"loss": "fused", "loop": "trainer"}, "that loop does not have it"),
        ({"alloc_conf": "expandable_segment:True"}, "expandable_segment"),
        ({"tokens_per_step": 4096, "gradient_accumulation_steps": 4}, "both set the size of a step"),
    ],
)
def test_a_contradiction_is_one_line_with_exit_code_2(given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(**given)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.exit_code == ExitCode.USAGE


def test_the_nearest_target_is_offered() -> None:
    with pytest.raises(UsageError) as caught:
        resolved(target="v_porj")
    assert caught.value.remedy == "did you mean v_proj?"


@pytest.mark.parametrize(
    ("device", "given", "words"),
    [
        (TURING, {"dtype": "bf16"}, "Tesla T4 has no bf16"),
        (TURING, {"attention": "flash_attention_2"}, "Tesla T4 has no FlashAttention 2"),
        (TURING, {"method": "qlora", "adapter_dtype": "bf16"}, "cannot unscale bf16"),
        (make_cpu(), {"attention": "flash_attention_2"}, "CPU has no FlashAttention 2"),
        (make_cpu(), {"dtype": "fp16"}, "fp16 is not trained on a CPU"),
        (make_device(name="Old", bnb_4bit=False), {"method": "qlora"}, "no 4-bit kernels"),
    ],
)
def test_what_the_device_cannot_do_is_refused_by_name(device: Any, given: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        resolved(device, **given)
    assert words in caught.value.message


def test_what_is_not_priced_yet_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError) as caught:
        resolved(method="ptuning", encoder_type="LSTM")
    assert caught.value.message == "--encoder-type LSTM is not priced yet"
    assert caught.value.remedy


def test_a_regression_is_no_classification_of_one_label() -> None:
    """transformers takes the mean squared error for one label (loss/loss_utils.py)."""
    bert = make_model_spec(architecture="BertForSequenceClassification")
    with pytest.raises(UnsupportedError, match="--num-labels 1 is a regression"):
        resolve({"task": "classification", "num_labels": 1}, bert, None)


def test_one_gpu_and_one_node_are_the_ordinary_case() -> None:
    assert resolved(gpus=1, nodes=1, sharding="none", offload="none").setup.sharding == "none"


def test_an_already_quantised_checkpoint_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedError, match="already quantised with gptq") as caught:
        resolve({}, make_model_spec(quantization="gptq"), AMPERE)
    assert "price the original" in str(caught.value)


def test_the_recipe_follows_the_method_and_takes_what_is_given() -> None:
    assert resolved(method="full").recipe.learning_rate == 2e-5
    answer = resolved(method="qlora", max_steps=40, data="train.jsonl", num_train_epochs=3.0)
    assert answer.recipe.learning_rate == 2e-4
    assert (answer.recipe.max_steps, answer.recipe.data) == (40, "train.jsonl")
    assert answer.workload.num_train_epochs == answer.recipe.num_train_epochs == 3.0
    assert answer.recipe.output_dir == "runs/llama-2-layers-qlora-r16/model"


def test_the_linears_of_gpt2_are_conv1d_and_can_be_targeted() -> None:
    conv1d = Weight(name="transformer.h.{layer}.attn.c_attn.weight", shape=(768, 2304), dtype="fp32", module="conv")
    gpt2 = make_model_spec(weights=(conv1d,))
    assert resolve({"target": "c_attn"}, gpt2, AMPERE).setup.method == Lora(target_modules=("c_attn",))
