"""Loading a plan's model: what each of its parts is asked for."""

from pathlib import Path

import pytest

from tests.executor.factories import make_plan, make_setup

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]


def test_towers_that_no_text_runs_through_are_not_asked_for_the_plans_attention(tmp_path: Path) -> None:
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    from vramplan.executor.load import load_base

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "num_key_value_heads": 1, "head_dim": 16, "vocab_size": 128}
    vision = {**small, "image_size": 28, "patch_size": 14}
    made = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision))
    made.save_pretrained(tmp_path / "model")
    plan = make_plan(tmp_path, model_path=tmp_path / "model", setup=make_setup(attention="sdpa"), trainable_params=1)
    planned = plan.model.model_copy(update={"architecture": "Gemma3ForConditionalGeneration"})
    config = load_base(planned, plan.setup, device_map={"": "cpu"}).config
    assert config.text_config._attn_implementation == "sdpa"
    assert config.vision_config._attn_implementation == "eager"
