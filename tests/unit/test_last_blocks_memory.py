"""Full fine-tuning of the last blocks alone, by hand for Llama 3.1 8B: 218,112,000 parameters a layer."""

from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.memory.groups import total_bytes
from vramplan.planner.memory.static import count_static
from vramplan.planner.memory.structure import layer_kinds
from vramplan.planner.methods import Full
from vramplan.planner.programs.program import FROZEN
from vramplan.planner.training_setup import Precision, TrainingSetup

LLAMA = resolve_model("meta-llama/Llama-3.1-8B", online=False)
OF_A_LAYER = 2 * 4096 * 4096 + 2 * 1024 * 4096 + 3 * 14336 * 4096 + 2 * 4096


def test_layers_below_the_last_blocks_are_frozen() -> None:
    kinds = layer_kinds(LLAMA, Full(trainable_blocks=2))
    assert [kind.startswith(FROZEN) for kind in kinds] == [True] * 30 + [False] * 2
    assert layer_kinds(LLAMA, Full()) == layer_kinds(LLAMA)
    assert not any(kind.startswith(FROZEN) for kind in layer_kinds(LLAMA))


def test_only_the_last_blocks_have_gradients() -> None:
    setup = TrainingSetup(method=Full(trainable_blocks=2), precision=Precision(dtype="bf16"))
    static = count_static(LLAMA, setup)
    assert OF_A_LAYER == 218_112_000
    assert static.trainable_params == 2 * OF_A_LAYER
    assert total_bytes(static.weights, 1) == 2 * LLAMA.total_params
