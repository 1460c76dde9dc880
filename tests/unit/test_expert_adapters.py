"""LoRA on mixtures of experts, by hand for Mixtral 8x7B: eight experts of 14336 in 32 layers of 4096."""

import pytest

from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.errors import UsageError
from vramplan.planner.memory.expert_adapters import converted, expert_groups
from vramplan.planner.memory.groups import total_bytes
from vramplan.planner.methods import Lora

MIXTRAL = resolve_model("mistralai/Mixtral-8x7B-v0.1", online=False)
LLAMA = resolve_model("meta-llama/Llama-3.1-8B", online=False)


def test_experts_stored_as_one_tensor_get_a_rank_each_and_two_where_projections_are_fused() -> None:
    r, h, f = 16, 4096, 14336
    router = r * h + 8 * r
    down = (8 * r) * f + h * (8 * r)
    gate_and_up = (8 * r * 2) * h + (2 * f) * (8 * r * 2)
    assert total_bytes(list(expert_groups(MIXTRAL, Lora(r=r), 4)), 1) == 32 * 4 * (router + down + gate_and_up)


def test_names_of_projections_mean_the_tensors_that_hold_them_now() -> None:
    down = converted(MIXTRAL, Lora(target_modules=("w2",)))
    assert [weight.name.rpartition(".")[2] for weight in down.parameters] == ["down_proj"]
    assert down.names == ("w2",)
    assert converted(MIXTRAL, Lora(target_modules=("q_proj",))).parameters == ()
    assert converted(LLAMA, Lora(target_modules=("gate_proj",))).parameters == ()


@pytest.mark.parametrize(
    ("method", "said"),
    [
        (Lora(target_modules=("w1",)), "--target w1: the experts hold it in one tensor with w3"),
        (Lora(use_dora=True), "--use-dora: PEFT has none for the fused experts of mixtral"),
        (Lora(lora_dropout=0.1), "--lora-dropout: PEFT has none"),
        (Lora(init_lora_weights="pissa"), "--init-lora-weights pissa: PEFT has none"),
    ],
)
def test_what_peft_does_not_have_for_a_tensor_of_experts_is_refused(method: Lora, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        converted(MIXTRAL, method)
    assert caught.value.remedy
