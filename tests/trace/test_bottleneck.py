"""Bottleneck adapters live in PEFT like its own: made, saved, loaded, switched, disabled, unloaded; never merged."""

from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


def base(family: str = "llama") -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "llama": {
            "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
            "vocab_size": 50,
        },
        "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 50},
    }[family]  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **sizes)).eval()


def adapted(model: Any, targets: tuple[str, ...] = ("o_proj", "down_proj")) -> Any:
    from vramplan.planner.methods import Bottleneck
    from vramplan.planner.trace.adapters import apply_method

    return apply_method(model, Bottleneck(bottleneck_size=8, target_modules=targets), adapter_dtype="fp32").eval()


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


def nudge(model: Any) -> None:
    """As training would: every adapter weight moves."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.05


def test_a_bottleneck_of_64_at_width_4096_has_528_448_parameters() -> None:
    torch = pytest.importorskip("torch")
    from vramplan.planner.trace.bottleneck import BottleneckConfig, BottleneckLayer

    layer = BottleneckLayer(torch.nn.Linear(64, 4096), "default", BottleneckConfig(bottleneck_size=64))
    assert sum(p.numel() for name, p in layer.named_parameters() if "bottleneck" in name) == 528_448


@pytest.mark.parametrize(
    ("family", "targets"), [("llama", ("o_proj", "down_proj")), ("gpt2", ("attn.c_proj", "mlp.c_proj"))]
)
def test_it_changes_nothing_until_trained_and_is_saved_and_loaded(
    family: str, targets: tuple[str, ...], tmp_path: Path
) -> None:
    import peft
    import torch

    before = logits(base(family))
    model = adapted(base(family), targets)
    assert torch.equal(logits(model), before)
    nudge(model)
    trained = logits(model)
    assert not torch.allclose(trained, before)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(peft.PeftModel.from_pretrained(base(family), tmp_path).eval()), trained)
    with model.disable_adapter():
        assert torch.equal(logits(model), before)
    assert torch.equal(logits(model.unload()), before)


def test_several_adapters_share_one_base_and_are_switched(tmp_path: Path) -> None:
    import torch

    model = adapted(base())
    nudge(model)
    first = logits(model)
    model.save_pretrained(tmp_path)
    model.load_adapter(tmp_path, "second")
    model.add_adapter("fresh", model.peft_config["default"])
    model.set_adapter("second")
    assert torch.equal(logits(model), first)
    model.set_adapter("fresh")
    assert torch.equal(logits(model), logits(base()))
    model.delete_adapter("fresh")
    assert set(model.peft_config) == {"default", "second"}


@pytest.mark.parametrize("call", ["merge_and_unload", "merge_adapter"])
def test_merging_is_refused_with_the_reason(call: str) -> None:
    with pytest.raises(ValueError, match="not linear: they cannot be merged"):
        getattr(adapted(base()), call)()
