"""The phases around a training step, by hand for Llama 3.1 8B: its largest linears are 14336 x 4096."""

import pytest

from tests.unit.test_estimate import BF16, LLAMA, WORKLOAD, hand, priced
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.phases import Parts, decomposing_bytes, resuming, saving, warmed_up_bytes
from vramplan.planner.memory.static import count_static
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.resolve import resolve
from vramplan.planner.training_setup import Precision, TrainingSetup

LARGEST = 14336 * 4096


def _line(candidate: object, phase: str, component: str) -> int:
    lines = [each.lines for each in candidate.budget.phases if each.name == phase]  # type: ignore[attr-defined]
    return sum(line.estimate_bytes for line in lines[0] if line.component == component)


def test_a_linear_is_on_the_device_in_half_precision_while_it_is_quantised() -> None:
    # two bytes a weight, and an fp32 for each block of 64 until those are quantised too
    assert _line(priced(method=Qlora(r=16)), "load", "temporaries") == 2 * LARGEST + 4 * LARGEST // 64
    assert _line(priced(method=Lora(r=16)), "load", "temporaries") == 0


def test_merging_needs_two_products_of_the_factors_and_is_not_done_on_a_quantised_base() -> None:
    assert _line(priced(method=Lora(r=16)), "merge", "temporaries") == 2 * LARGEST * 4
    assert "merge" not in [phase.name for phase in priced(method=Qlora(r=16)).budget.phases]


def test_saving_and_resuming_hold_what_lies_between_two_steps() -> None:
    candidate = priced(method=Full(), optimizer="adamw_torch")
    params = LLAMA.total_params
    for phase in ("save", "resume"):
        assert _line(candidate, phase, "weights") == 2 * params
        assert _line(candidate, phase, "optimizer") == 4 * params


def test_a_mixture_that_is_saved_whole_has_its_experts_taken_apart() -> None:
    """Mixtral 8x7B's file has each expert's projections by themselves; in memory w1 and w3 of 8 experts are one tensor
    of (8, 2 x 14336, 4096) in each of 32 layers, of which a copy in parts is made while it is written."""
    mixtral = resolve_model("mistralai/Mixtral-8x7B-v0.1", online=False)
    apart = 32 * 8 * 2 * 14336 * 4096
    between: Parts = {"weights": 7, "temporaries": 100}
    full = TrainingSetup(method=Full(), precision=BF16)
    assert saving(between, mixtral, full) == {"weights": 7, "temporaries": 100 + 2 * apart}
    assert saving({"weights": 7}, mixtral, full) == {"weights": 7, "temporaries": 2 * apart}
    assert saving(between, mixtral, TrainingSetup(method=Lora(r=16), precision=BF16)) == between
    gpt_oss = resolve_model("openai/gpt-oss-20b", online=False)  # whose file has them as memory does
    assert saving(between, gpt_oss, full) == between


def test_a_resumed_run_holds_the_adapter_twice_until_the_optimizers_states_are_more() -> None:
    base: Parts = {"weights": 50, "adapter": 9, "optimizer": 18, "gradients": 4}
    assert resuming(base, 9) == {"weights": 50, "quantization_state": 0, "adapter": 9, "buffers": 0, "optimizer": 18}
    without = {name: size for name, size in base.items() if name != "optimizer"}
    assert resuming(without, 9) == {
        "weights": 50,
        "quantization_state": 0,
        "adapter": 9,
        "buffers": 0,
        "temporaries": 9,
    }


@pytest.mark.parametrize(
    ("beginning", "dtype", "elements"),
    [
        # an up projection's singular vectors, all 4096 of them; B A, what is left, and in half precision an fp32 copy
        ("pissa", "bf16", 3 * LARGEST + 4096 * 14336 + 4096 + 4096 * 4096),
        ("pissa", "fp32", 2 * LARGEST + 4096 * 14336 + 4096 + 4096 * 4096),
        # the first 16 alone
        ("pissa_niter_4", "bf16", 3 * LARGEST + 16 * (14336 + 1 + 4096)),
        ("gaussian", "bf16", 0),
    ],
)
def test_a_weight_is_taken_apart_in_fp32_where_lora_begins_from_its_principal_part(
    beginning: str, dtype: str, elements: int
) -> None:
    setup = TrainingSetup(
        method=Lora(r=16, init_lora_weights=beginning), precision=Precision.model_validate({"dtype": dtype})
    )
    assert sum(decomposing_bytes(LLAMA, setup)) == 4 * elements


def test_loading_never_is_the_peak() -> None:
    assert priced(method=Qlora(r=16)).budget.peak_phase != "load"


def test_what_transformers_reserves_before_loading_stays_reserved() -> None:
    """Our executor names the device while loading, so one block of the weights' size is taken first; a stock Trainer
    does not."""
    ours, stock = (TrainingSetup(method=Full(), precision=BF16, loop=loop) for loop in ("executor", "trainer"))
    weights = count_static(LLAMA, ours).weights
    assert warmed_up_bytes(weights, ours) == 2 * LLAMA.total_params
    assert warmed_up_bytes(weights, stock) == 0


@pytest.mark.parametrize(("change", "said"), [({"loop": "plain"}, "plain loop"), ({"loss": "liger"}, "Liger")])
def test_what_is_priced_only_says_why(change: dict[str, str], said: str) -> None:
    setup = TrainingSetup(method=Lora(r=16), precision=BF16, **change)
    candidate = estimate(LLAMA, WORKLOAD, setup, None, programs=hand)
    assert not candidate.runnable
    assert said in (candidate.not_runnable_because or "")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"optimizer": "sgd", "weight_decay": 0.1}, UnsupportedError),
        ({"attention": "flash_attention_2", "dtype": "fp32", "mixed_precision": "no"}, UsageError),
        ({"packing": True, "loop": "trainer"}, UsageError),
        ({"loss": "liger", "loop": "trainer", "dtype": "fp32", "mixed_precision": "bf16"}, UnsupportedError),
    ],
)
def test_what_does_not_go_together_is_refused(given: dict[str, object], error: type[Exception]) -> None:
    with pytest.raises(error):
        resolve({"method": "full", **given}, LLAMA, None)
