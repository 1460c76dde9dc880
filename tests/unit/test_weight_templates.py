"""Our weight templates against what transformers instantiates, name by name."""

from typing import Any

import pytest

from vramplan.planner.adapters import catalogue
from vramplan.planner.config_defaults import complete_config
from vramplan.planner.weight_templates import FAMILIES, weights_from_config

SMALL = {
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "vocab_size": 320,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "grouped keys": {"num_key_value_heads": 2},
    "one key head": {"num_key_value_heads": 1},
    "as many keys as heads": {"num_key_value_heads": 6},
    "no key heads named": {"num_key_value_heads": None},
    "wide heads": {"num_key_value_heads": 3, "head_dim": 32},
    "biases": {"num_key_value_heads": 2, "attention_bias": True, "mlp_bias": True},
    "tied": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "untied": {"num_key_value_heads": 2, "tie_word_embeddings": False},
}


def completed(config: dict[str, Any]) -> dict[str, Any]:
    return complete_config(config, catalogue.architectures()[config["model_type"]]["defaults"])


def test_templates_agree_with_every_catalogue_model_of_their_families() -> None:
    checked = 0
    for record in catalogue.records():
        if record["config"]["model_type"] in FAMILIES and record["architecture"].endswith("ForCausalLM"):
            facts = record["facts"]
            config = completed({**facts["config"], **(facts["validated_as"] or {})})
            found = set(weights_from_config(config, record["dtype"]))
            assert found == set(catalogue.weights_of_record(record)), facts["id"]
            checked += 1
    assert checked > 120


def test_completed_configs_agree_with_the_librarys() -> None:
    for record in catalogue.records():
        if record["config"]["model_type"] in FAMILIES and record["architecture"].endswith("ForCausalLM"):
            facts = record["facts"]
            config = completed({**facts["config"], **(facts["validated_as"] or {})})
            for name in ("head_dim", "num_key_value_heads", "layer_types", "sliding_window", "no_rope_layers"):
                assert config.get(name) == record["config"].get(name), (facts["id"], name)


@pytest.mark.train
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
def test_templates_agree_with_transformers_in_every_variant(model_type: str, variant: str) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from vramplan.planner.trace.weights import build_config, meta_model, weights_on_meta

    fields = dict(VARIANTS[variant])
    if model_type in {"mistral", "gemma", "gemma2", "gemma3_text"} and fields["num_key_value_heads"] is None:
        fields.pop("num_key_value_heads")  # their configs default to a number that does not divide these heads
        fields["num_attention_heads"] = 16
    config = {"model_type": model_type, **SMALL, **fields}
    model = meta_model(build_config(config))
    expected = set(weights_on_meta(model, "bf16"))
    assert type(model).__name__ == catalogue.architectures()[model_type]["architecture"]
    assert set(weights_from_config(completed(config), "bf16")) == expected


def test_a_small_llama_counted_by_hand() -> None:
    config = completed({"model_type": "llama", **SMALL})
    # by hand: 2 embeddings, per layer 4 attention and 3 MLP matrices and 2 norms, one last norm
    per_layer = 4 * 96 * 96 + 3 * 96 * 160 + 2 * 96
    total = sum(weight.numel * weight.count for weight in weights_from_config(config, "bf16"))
    assert total == 2 * 320 * 96 + 3 * per_layer + 96
