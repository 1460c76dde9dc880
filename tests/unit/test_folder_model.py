"""Models in a local folder: what is counted, and every way a folder can be wrong."""

import json
import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.model_files import LLAMA, LLAMA_PARAMS, header_bytes, llama_tensors, write_config
from vramplan.planner.adapters import folder, model_files
from vramplan.planner.adapters.catalogue import architectures
from vramplan.planner.adapters.folder import read_folder
from vramplan.planner.errors import BadConfigError, ExitCode, MissingExtraError, UnsupportedError, VramplanError


def test_a_llama_folder_is_counted_from_its_config_alone(tmp_path: Path) -> None:
    model = read_folder(write_config(tmp_path, LLAMA))
    assert model.total_params == LLAMA_PARAMS
    assert (model.checkpoint_dtype, model.context_length, model.revision) == ("bf16", 256, None)
    assert (model.provenance.source, model.repo_id) == ("folder", str(tmp_path.resolve()))
    assert model.config["head_dim"] == 16


def test_the_stored_dtype_comes_from_the_header(tmp_path: Path) -> None:
    write_config(tmp_path, LLAMA)
    (tmp_path / "model.safetensors").write_bytes(header_bytes(llama_tensors("F16")))
    model = read_folder(tmp_path)
    assert model.checkpoint_dtype == "fp16"
    assert model.published_params == LLAMA_PARAMS
    assert "checked against the safetensors headers" in model.provenance.parameters_basis


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    write_config(tmp_path, LLAMA)
    tensors = llama_tensors()
    parts = [dict(list(tensors.items())[:8]), dict(list(tensors.items())[8:])]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        name = f"model-{number:05}-of-00002.safetensors"
        (tmp_path / name).write_bytes(header_bytes(part))
        weight_map |= dict.fromkeys(part, name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert read_folder(tmp_path).published_params == LLAMA_PARAMS
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(BadConfigError, match=r"model-00002-of-00002\.safetensors.*incomplete"):
        read_folder(tmp_path)


def test_a_checkpoint_of_the_bare_model_fits_without_prefix_and_head(tmp_path: Path) -> None:
    write_config(tmp_path, LLAMA)
    bare = {name.removeprefix("model."): shape for name, shape in llama_tensors().items() if "lm_head" not in name}
    (tmp_path / "model.safetensors").write_bytes(header_bytes(bare))
    assert read_folder(tmp_path).total_params == LLAMA_PARAMS


def test_a_classifiers_checkpoint_needs_no_language_model_head(tmp_path: Path) -> None:
    write_config(tmp_path, {**LLAMA, "architectures": ["LlamaForSequenceClassification"]})
    tensors = llama_tensors() | {"score.weight": ("F16", [2, 64])}
    del tensors["lm_head.weight"]
    (tmp_path / "model.safetensors").write_bytes(header_bytes(tensors))
    assert read_folder(tmp_path).total_params == LLAMA_PARAMS


def test_a_tensor_that_does_not_fit_the_config_is_named(tmp_path: Path) -> None:
    write_config(tmp_path, LLAMA)
    tensors = llama_tensors() | {"model.layers.1.self_attn.k_proj.weight": ("F16", [64, 64])}
    (tmp_path / "model.safetensors").write_bytes(header_bytes(tensors))
    with pytest.raises(BadConfigError, match=r"model\.layers\.1\.self_attn\.k_proj\.weight as \[64, 64\].*\[32, 64\]"):
        read_folder(tmp_path)


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    write_config(tmp_path, LLAMA)
    tensors = llama_tensors()
    del tensors["model.layers.1.mlp.up_proj.weight"]
    (tmp_path / "model.safetensors").write_bytes(header_bytes(tensors))
    with pytest.raises(BadConfigError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight that"):
        read_folder(tmp_path)


def without(*names: str, **changes: Any) -> dict[str, Any]:
    return {name: value for name, value in {**LLAMA, **changes}.items() if name not in names}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is not JSON"),
        ("[1]", "is not a JSON object"),
        ("", "is not JSON"),
        (json.dumps({**LLAMA, "hidden_size": float("nan")}), "hidden_size = 'NaN', which is not a whole number"),
        (json.dumps({**LLAMA, "vocab_size": float("inf")}), "vocab_size = 'Infinity', which is not a whole number"),
        ('{"a":' * 100 + "1" + "}" * 100, "nested more than 32 levels"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"model_type": "llama", "vocab_size": ' + "9" * 5000 + "}", "is not JSON"),
        ("{" + " " * 10_000_000 + "}", "larger than 10 MB"),
        (without("model_type"), "has no model_type"),
        (without(model_type=7), "has no model_type"),
        (without("hidden_size"), "has no hidden_size, which 'llama' needs"),
        (without("vocab_size"), "has no vocab_size"),
        (without(hidden_size=0), "hidden_size = 0; it must be between 1 and 1,000,000"),
        (without(num_hidden_layers=-3), "num_hidden_layers = -3; it must be between 1 and 10,000"),
        (without(num_hidden_layers=10_001), "it must be between 1 and 10,000"),
        (without(vocab_size=10**9), "it must be between 1 and 10,000,000"),
        (without(hidden_size="64"), "hidden_size = '64', which is not a whole number"),
        (without(hidden_size=64.0), "which is not a whole number"),
        (without(hidden_size=True), "which is not a whole number"),
        (without(hidden_size=None), "has no hidden_size"),
        (without(hidden_size=[64, 64]), "has a list of hidden_size"),
        (without(tie_word_embeddings="false"), "tie_word_embeddings = 'false', which is not true or false"),
        (without(rope_scaling="linear"), "rope_scaling = 'linear', which is not an object"),
        (without(layer_types=["full_attention"]), "has 1 layer_types for 2 layers"),
        (without(num_attention_heads=5, num_key_value_heads=5), "does not divide into 5 attention heads"),
        (without(num_key_value_heads=3), "do not divide over 3 key/value heads"),
        (without(quantization_config="gptq"), "quantization_config that is not an object"),
        (without(text_config={"hidden_size": -1}), "text_config.hidden_size = -1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused_in_one_line(tmp_path: Path, config: Any, words: str) -> None:
    with pytest.raises(BadConfigError) as caught:
        read_folder(write_config(tmp_path, config))
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == ExitCode.USAGE


ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2.5, "x", "", [], [1], ["x"], [None], [[1]], {}, {"a": 1}, {"rope_type": 5}, 10**30,
    float("inf"), "bfloat16", "\x1b[31m",
)  # fmt: skip


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma3_text", "smollm3"])
def test_no_value_of_any_field_is_more_than_one_clear_refusal(tmp_path: Path, model_type: str) -> None:
    config = {**LLAMA, "model_type": model_type}
    fields = set(config) | set(architectures()[model_type]["defaults"])
    fields |= {
        "rope_scaling",
        "layer_types",
        "sliding_window_pattern",
        "text_config",
        "quantization_config",
        "auto_map",
    }
    for field in sorted(fields - {"model_type"}):
        for value in ODD:
            with suppress(VramplanError):
                model = read_folder(write_config(tmp_path, {**config, field: value}))
                assert model.total_params > 0


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfigError, match="is not JSON"):
        read_folder(tmp_path)


def test_terminal_escapes_in_a_config_stay_inert(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError) as caught:
        read_folder(write_config(tmp_path, without(model_type="lla\x1b[31mma")))
    assert "\x1b" not in str(caught.value)


def test_an_empty_folder_and_an_adapter_say_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match=r"there is no config\.json"):
        read_folder(tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(BadConfigError, match="is a PEFT adapter") as caught:
        read_folder(tmp_path)
    assert "base model" in (caught.value.remedy or "")


def test_an_unknown_type_is_unsupported_and_remote_code_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="has no model_type 'nonesuch'"):
        read_folder(write_config(tmp_path, without(model_type="nonesuch")))
    remote = without(model_type="nonesuch", auto_map={"AutoConfig": "configuration.Config"})
    with pytest.raises(UnsupportedError, match="exists only as code in its repository"):
        read_folder(write_config(tmp_path, remote))


def test_auto_map_beside_a_type_transformers_has_asks_for_no_remote_code(tmp_path: Path) -> None:
    model = read_folder(write_config(tmp_path, without(auto_map={"AutoConfig": "configuration.Config"})))
    assert not model.requires_remote_code


def test_a_quantised_folder_keeps_its_logical_weights_and_says_how_it_is_stored(tmp_path: Path) -> None:
    config = without(quantization_config={"quant_method": "gptq", "bits": 4})
    (tmp_path / "model.safetensors").write_bytes(header_bytes({"model.norm.weight": ("F16", [64])}))
    model = read_folder(write_config(tmp_path, config))
    assert (model.quantization, model.total_params, model.published_params) == ("gptq", LLAMA_PARAMS, None)


def _entry(**changes: Any) -> bytes:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | changes
    content = json.dumps({"a": entry}).encode()
    return struct.pack("<Q", len(content)) + content + bytes(8)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "too short"),
        (b"\x10\0\0", "too short"),
        (struct.pack("<Q", 2**63) + b"{}", "claims a header of 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 99) + b"{}", "claims a header of 99 bytes"),
        (struct.pack("<Q", 3) + b"abc", "is not JSON"),
        (struct.pack("<Q", 2) + b"[]", "not a JSON object"),
        (struct.pack("<Q", 7) + b'{"a":1}', "something other than an object"),
        (_entry(dtype="F99"), "a dtype safetensors does not have"),
        (_entry(dtype=["F32"]), "a dtype safetensors does not have"),
        (_entry(shape=[-2]), "the shape [-2]"),
        (_entry(shape="2"), "the shape 2"),
        (_entry(shape=[2.0]), "the shape [2.0]"),
        (_entry(data_offsets=[8, 0]), "the offsets [8, 0]"),
        (_entry(data_offsets=[0]), "the offsets [0]"),
        (_entry(data_offsets=[0, 4]), "4 bytes, which is not its shape times F32"),
        (_entry(data_offsets=[8, 16]), "beyond the end of the file"),
    ],
)
def test_a_broken_safetensors_header_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    write_config(tmp_path, LLAMA)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(BadConfigError) as caught:
        read_folder(tmp_path)
    assert words in caught.value.message
    assert "model.safetensors" in caught.value.message


@pytest.mark.parametrize("shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..\\x", ""])
def test_an_index_cannot_name_files_elsewhere(tmp_path: Path, shard: str) -> None:
    write_config(tmp_path, LLAMA)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(BadConfigError, match="not a file beside it"):
        read_folder(tmp_path)


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {"a": 1}}', "nonsense"])
def test_a_broken_index_is_refused(tmp_path: Path, index: str) -> None:
    write_config(tmp_path, LLAMA)
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BadConfigError, match=r"model\.safetensors\.index\.json"):
        read_folder(tmp_path)


GPT2 = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 50, "n_positions": 16}
GPT2_TENSORS: dict[str, tuple[str, list[int]]] = {
    "wte.weight": ("F32", [50, 32]),
    "wpe.weight": ("F32", [16, 32]),
    "h.0.ln_1.weight": ("F32", [32]),
    "h.1.ln_1.weight": ("F32", [32]),
    "h.0.attn.c_attn.weight": ("F32", [32, 96]),
    "h.1.attn.c_attn.weight": ("F32", [32, 96]),
    "ln_f.weight": ("F32", [32]),
}


def test_another_family_without_transformers_is_read_from_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_files, "transformers_installed", lambda: False)
    (tmp_path / "model.safetensors").write_bytes(header_bytes(GPT2_TENSORS))
    model = read_folder(write_config(tmp_path, GPT2))
    kinds = {weight.name: (weight.module, weight.layers) for weight in model.weights}
    assert kinds["h.{layer}.attn.c_attn.weight"] == ("conv", (0, 1))
    assert kinds["wte.weight"] == ("embedding", ())
    assert kinds["h.{layer}.ln_1.weight"] == ("norm", (0, 1))
    assert "headers" in model.provenance.parameters_basis


def test_another_family_with_neither_headers_nor_transformers_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vramplan.planner.adapters.transformers_weights.transformers_installed", lambda: False)
    with pytest.raises(MissingExtraError) as caught:
        read_folder(write_config(tmp_path, GPT2))
    assert caught.value.remedy == "pip install 'vramplan[train]'"


@pytest.mark.train
def test_another_family_is_counted_by_transformers_in_a_child_process(tmp_path: Path) -> None:
    model = read_folder(write_config(tmp_path, GPT2))
    # by hand: wte, wpe; per layer two norms (weight, bias), c_attn, c_proj, and the MLP's two; the last norm
    per_layer = 4 * 32 + (32 * 96 + 96) + (32 * 32 + 32) + (32 * 128 + 128) + (128 * 32 + 32)
    assert model.total_params == 50 * 32 + 16 * 32 + 2 * per_layer + 2 * 32
    assert (model.architecture, model.output_embedding) == ("GPT2LMHeadModel", "lm_head")


@pytest.mark.train
def test_an_encoder_is_counted_without_a_task_head(tmp_path: Path) -> None:
    bert = {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM"],
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "vocab_size": 50,
        "max_position_embeddings": 16,
    }
    assert read_folder(write_config(tmp_path, bert)).architecture == "BertModel"


@pytest.mark.train
def test_what_transformers_refuses_is_said_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(BadConfigError, match="transformers cannot build"):
        read_folder(write_config(tmp_path, {**GPT2, "n_embd": 33}))


def test_a_folder_that_cannot_be_read_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path, LLAMA)

    def refuse(where: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(folder, "read_folder_headers", refuse)
    with pytest.raises(BadConfigError, match="Permission denied"):
        read_folder(tmp_path)
