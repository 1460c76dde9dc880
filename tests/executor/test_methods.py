"""Every method runs: a tiny Llama on a CPU, its static bytes worked by hand, its result loaded again.

Hidden 64, two layers, two key/value heads of 16, MLP 128: the model of tests/executor/factories.py.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_plan, make_setup, make_tiny_llama, pin, prompt_completion_rows, write_jsonl
from tests.executor.test_training import LINEARS, WEIGHTS, trained
from vramplan.executor.events import Step
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import (
    Bottleneck,
    Ia3,
    Layerwise,
    LnTuning,
    Lora,
    LrGroup,
    Method,
    Prefix,
    Prompt,
    Ptuning,
)

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

INDICES = 8 * 6
"""The virtual tokens' int64 indices, on the same device as the model on a CPU."""
ROTARY = 64
CASES: dict[str, tuple[Method, int, int]] = {
    # method, trainable parameters, bytes of buffers
    "prefix": (Prefix(num_virtual_tokens=6), 6 * 2 * 2 * 2 * 16, ROTARY + INDICES),
    "prompt": (Prompt(num_virtual_tokens=6), 6 * 64, ROTARY + INDICES),
    "prompt from text": (Prompt(num_virtual_tokens=6, prompt_tuning_init_text="what comes"), 6 * 64, ROTARY + INDICES),
    "p-tuning": (
        Ptuning(num_virtual_tokens=6, encoder_hidden_size=32),
        6 * 64 + (64 * 32 + 32) + (32 * 32 + 32) + (32 * 64 + 64),
        ROTARY + INDICES,
    ),
    "ia3": (
        Ia3(target_modules=("k_proj", "v_proj", "down_proj"), feedforward_modules=("down_proj",)),
        2 * (32 + 32 + 128),
        ROTARY,
    ),
    "ln-tuning": (
        LnTuning(target_modules=("input_layernorm", "post_attention_layernorm", "norm")),
        5 * 64,
        ROTARY,
    ),
    "houlsby": (
        Bottleneck(bottleneck_size=8, target_modules=("o_proj", "down_proj")),
        2 * 2 * (2 * 64 * 8 + 8 + 64),
        ROTARY,
    ),
    "LoRA and the head": (
        Lora(r=4, target_modules=("q_proj",), modules_to_save=("lm_head",)),
        2 * 4 * (64 + 64) + 300 * 64,
        ROTARY,
    ),
    "IA3 on int8": (
        Ia3(target_modules=("k_proj", "v_proj"), quant="int8"),
        2 * (32 + 32),
        ROTARY,
    ),
    "pfeiffer on nf4": (
        Bottleneck(adapter_kind="pfeiffer", bottleneck_size=8, target_modules=("down_proj",), quant="nf4"),
        2 * (2 * 64 * 8 + 8 + 64),
        ROTARY,
    ),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("world")
    data = write_jsonl(folder / "train.jsonl", prompt_completion_rows())
    return {"model_path": make_tiny_llama(folder / "model"), "data": pin(data)}


@pytest.mark.parametrize("name", CASES)
def test_a_method_trains_its_parameters_alone_and_its_result_loads(
    name: str, world: dict[str, Any], tmp_path: Path
) -> None:
    method, trainable, buffers = CASES[name]
    plan = make_plan(tmp_path, setup=make_setup(method), trainable_params=trainable, learning_rate=3e-2, **world)
    code, report, events = trained(plan, tmp_path)
    assert (code, report.status, report.steps) == (ExitCode.OK, "done", 10)
    assert not [event for event in events if event.event == "warned" and "parameters train" in event.message]
    assert report.static["adapter"] == report.static["gradients"] == 4 * trainable
    assert report.static["buffers"] == buffers
    linears = {"nf4": LINEARS // 2, "int8": LINEARS}.get(getattr(method, "quant", None) or "", LINEARS * 4)
    assert report.static["weights"] == WEIGHTS - LINEARS * 4 + linears
    losses = [event.loss for event in events if isinstance(event, Step) and event.loss is not None]
    assert losses[-1] < losses[0]
    assert _reloaded_parameters(world["model_path"], tmp_path / "output") > 0


def test_lower_layers_learn_at_their_own_rate(world: dict[str, Any], tmp_path: Path) -> None:
    setup = make_setup(Layerwise(lower_layers=1, lower_learning_rate=1e-30))
    plan = make_plan(tmp_path, setup=setup, **world)
    code, report, _ = trained(plan, tmp_path)
    assert (code, report.status) == (ExitCode.OK, "done")
    before, after = (_weights(folder / "model.safetensors") for folder in (world["model_path"], tmp_path / "output"))
    moved = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    still = {name for name in before if name == "model.embed_tokens.weight" or ".layers.0." in name}
    assert moved == set(before) - still


def test_a_group_learns_at_its_own_rate_and_the_rest_at_the_base_rate(world: dict[str, Any], tmp_path: Path) -> None:
    groups = (LrGroup(modules="layers.0-0.mlp", learning_rate=1e-30), LrGroup(modules="lm_head", learning_rate=1e-30))
    setup = make_setup(Layerwise(lower_layers=None, lower_learning_rate=None, lr_groups=groups))
    plan = make_plan(tmp_path, setup=setup, **world)
    code, report, _ = trained(plan, tmp_path)
    assert (code, report.status) == (ExitCode.OK, "done")
    before, after = (_weights(folder / "model.safetensors") for folder in (world["model_path"], tmp_path / "output"))
    moved = {name for name, tensor in before.items() if not tensor.equal(after[name])}
    assert moved == {name for name in before if ".layers.0.mlp." not in name and name != "lm_head.weight"}


def _reloaded_parameters(base: Path, adapter: Path) -> int:
    """Parameters of the saved adapter, loaded by PEFT as anyone would."""
    import peft
    from transformers import AutoModelForCausalLM

    import vramplan.planner.trace.bottleneck  # noqa: F401  makes the tuner known

    alone = AutoModelForCausalLM.from_pretrained(base)
    before = alone.num_parameters()
    model = peft.PeftModel.from_pretrained(alone, adapter)
    return sum(p.numel() for p in model.parameters()) - before


def _weights(file: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(file)
