"""Groups of modules at learning rates of their own: how they are written, matched, and refused."""

import pytest

from tests.fakes import make_model_spec
from vramplan.planner.contradictions import check_given
from vramplan.planner.errors import UsageError
from vramplan.planner.layerwise import learning_rates, rate_number
from vramplan.planner.methods import Full, Layerwise, LrGroup
from vramplan.planner.resolve import resolve

SPEC = make_model_spec()
NAMES = [name for name, _ in SPEC.tensors()]


def layerwise(groups: str, **options: object) -> Layerwise:
    method = resolve({"method": "layerwise", "lr_groups": groups, **options}, SPEC, None).setup.method
    assert isinstance(method, Layerwise)
    return method


def in_group(method: Layerwise, number: int) -> set[str]:
    return {name for name in NAMES if rate_number(name, method) == number}


def test_a_group_has_what_is_inside_the_modules_it_names_and_the_rest_has_the_base_rate() -> None:
    method = layerwise("embed_tokens=1e-6, layers.0-0=5e-6,layers.1-1.mlp=2e-5")
    assert learning_rates(method) == (1e-6, 5e-6, 2e-5)
    assert in_group(method, 1) == {"model.embed_tokens.weight"}
    assert in_group(method, 2) == {name for name in NAMES if name.startswith("model.layers.0.")}
    linears = ("gate_proj", "up_proj", "down_proj")
    assert in_group(method, 3) == {f"model.layers.1.mlp.{linear}.weight" for linear in linears}
    assert {"model.norm.weight", "lm_head.weight", "model.layers.1.self_attn.q_proj.weight"} <= in_group(method, 0)


def test_a_name_matches_as_a_target_does_whole_parts_from_the_end() -> None:
    method = layerwise("q_proj=1e-5,model.norm=1e-6")
    assert in_group(method, 1) == {f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)}
    assert in_group(method, 2) == {"model.norm.weight"}
    with pytest.raises(UsageError, match="proj matches no module"):
        layerwise("proj=1e-5")


def test_layers_are_told_apart_by_number_not_by_text() -> None:
    method = Layerwise(
        lower_layers=None,
        lower_learning_rate=None,
        lr_groups=(LrGroup(modules="layers.2-11", learning_rate=1e-5),),
    )
    numbers = [rate_number(f"model.layers.{layer}.mlp.up_proj.weight", method) for layer in (0, 1, 2, 9, 11, 12, 20)]
    assert numbers == [0, 0, 1, 1, 1, 0, 0]


@pytest.mark.parametrize(
    ("groups", "message", "remedy"),
    [
        ("wte=1e-5", "--lr-groups wte matches no module that trains", "embed_tokens, layers.N, lm_head, norm"),
        ("layers.0-0=1e-5,q_proj=1e-6", "layers.0-0 and q_proj both match model.layers.0.self_attn.q_proj", "narrower"),
        ("layers.0-1=1e-5,layers.1-1=1e-6", "layers.0-1 and layers.1-1 both match model.layers.1.", "narrower"),
        ("lm_head=1e-5,lm_head=1e-6", "lm_head and lm_head both match lm_head.weight", "leave lm_head out"),
        ("layers.1-7=1e-5", "layers.1-7: there is no layers.7", "from 0"),
        ("layers.1-0=1e-5", "layers.1-0: the range runs backwards", "0-1"),
        ("lm_head", "--lr-groups lm_head: not modules=rate", "name groups as in"),
        ("lm_head=1e-5,", "--lr-groups (nothing): not modules=rate", "name groups as in"),
        ("=1e-5", "--lr-groups =1e-5: not modules=rate", "name groups as in"),
        ("layers..q_proj=1e-5", "not modules=rate", "name groups as in"),
        ("lm_head=fast", "--lr-groups lm_head=fast: a learning rate is a finite number above 0", "name groups as in"),
        ("lm_head=0", "above 0", "name groups as in"),
        ("lm_head=nan", "above 0", "name groups as in"),
        ("lm_head=inf", "above 0", "name groups as in"),
    ],
)
def test_a_group_that_cannot_be_meant_is_named(groups: str, message: str, remedy: str) -> None:
    with pytest.raises(UsageError) as refused:
        layerwise(groups)
    assert message in str(refused.value)
    assert remedy in (refused.value.remedy or "")


def test_a_tied_head_learns_with_the_embeddings_it_is() -> None:
    tied = make_model_spec(weights=tuple(weight for weight in SPEC.weights if "lm_head" not in weight.name))
    with pytest.raises(UsageError, match="lm_head matches no module that trains"):
        resolve({"method": "layerwise", "lr_groups": "lm_head=1e-5"}, tied, None)


@pytest.mark.parametrize("other", [{"lower_layers": 2}, {"lower_learning_rate": 1e-5}])
def test_groups_and_lower_layers_are_not_both_said(other: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="both say what learns at another rate"):
        layerwise("lm_head=1e-5", **other)
    with pytest.raises(ValueError, match="either lr_groups"):
        Layerwise(lr_groups=(LrGroup(modules="lm_head", learning_rate=1e-5),))
    with pytest.raises(ValueError, match="either lr_groups"):
        Layerwise(lower_layers=None, lower_learning_rate=None)


def test_groups_belong_to_layerwise() -> None:
    with pytest.raises(UsageError, match="--lr-groups belongs to --method layerwise, not to full"):
        check_given({"method": "full", "lr_groups": "lm_head=1e-5"})


def test_a_plan_with_groups_reads_back_as_it_was() -> None:
    method = layerwise("embed_tokens=1e-6,layers.0-1=5e-6")
    assert Layerwise.model_validate_json(method.model_dump_json()) == method
    assert '"lr_groups":[{"modules":"embed_tokens","learning_rate":1e-6}' in method.model_dump_json()


def test_the_price_differs_from_full_in_the_optimizer_step_alone() -> None:
    from vramplan.planner.memory.optimizer import state_groups
    from vramplan.planner.memory.static import count_static, total_bytes

    resolved = resolve({"method": "layerwise", "lr_groups": "layers.0-0=1e-5,lm_head=1e-6"}, SPEC, None)
    grouped = count_static(SPEC, resolved.setup)
    whole = count_static(SPEC, resolved.setup.model_copy(update={"method": Full()}))
    assert grouped.weights == whole.weights
    assert grouped.trainable_params == whole.trainable_params
    states = [total_bytes(state_groups("adamw_torch", each.trainable, "cuda"), 512) for each in (grouped, whole)]
    assert states[0] == states[1]
