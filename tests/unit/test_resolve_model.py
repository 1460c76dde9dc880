"""What a person may type for a model, searching, and the models command."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.model_files import LLAMA, LLAMA_PARAMS, write_config
from vramplan.planner.adapters import catalogue
from vramplan.planner.adapters.models import resolve_model, search_models
from vramplan.planner.cli.main import main
from vramplan.planner.errors import BadConfigError, UnknownModelError, UnsupportedError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.weight_rows import layers_of, ranges_of


@pytest.mark.parametrize(
    ("text", "repo_id"),
    [
        ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B"),
        ("META-LLAMA/llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("llama-3.1-8b", "meta-llama/Llama-3.1-8B"),
        ("meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B-Instruct"),
        ("bert-base-uncased", "google-bert/bert-base-uncased"),
        ("bert-large-cased", "google-bert/bert-large-cased"),
        ("gpt2", "openai-community/gpt2"),
        ("gpt2-medium", "openai-community/gpt2-medium"),
        ("gpt2-xl", "openai-community/gpt2-xl"),
        ("t5-small", "google-t5/t5-small"),
        ("t5-11b", "google-t5/t5-11b"),
        ("roberta-base", "FacebookAI/roberta-base"),
        ("xlm-roberta-base", "FacebookAI/xlm-roberta-base"),
        ("distilbert-base-uncased", "distilbert/distilbert-base-uncased"),
        ("distilgpt2", "distilbert/distilgpt2"),
        ("albert-base-v2", "albert/albert-base-v2"),
        ("  gpt2 ", "openai-community/gpt2"),
    ],
)
def test_a_model_is_found_under_every_name_people_use(text: str, repo_id: str) -> None:
    assert resolve_model(text, online=False).repo_id == repo_id


def test_every_id_and_alias_of_the_catalogue_resolves_to_its_entry() -> None:
    for entry in catalogue.entries():
        for name in (entry.id, *entry.aliases):
            if entry.model_type in {"phi3small", "phi3_v", "nemotron-nas"}:
                continue  # only remote code
            model = resolve_model(name, online=False)
            assert (model.repo_id, model.provenance.location) == (name, entry.id)
            assert model.total_params == entry.params


def test_an_alias_says_what_it_is_priced_as() -> None:
    model = resolve_model("meta-llama/Llama-3.1-8B-Instruct")
    assert model.provenance.note is not None
    assert "priced as meta-llama/Llama-3.1-8B" in model.provenance.note


def test_a_model_published_with_its_own_code_is_priced_as_the_class_that_matches_it() -> None:
    model = resolve_model("internlm/internlm2-7b")
    assert (model.requires_remote_code, model.architecture) == (True, "LlamaForCausalLM")
    assert model.total_params == 7_737_708_544
    assert "code of its own" in (model.provenance.note or "")


def test_a_model_that_exists_only_as_remote_code_is_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="exists only as code in its repository"):
        resolve_model("microsoft/Phi-3-small-8k-instruct")


def test_a_folder_comes_before_a_name_and_its_config_may_be_named_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gpt2").mkdir()
    write_config(tmp_path / "gpt2", LLAMA)
    monkeypatch.chdir(tmp_path)
    assert resolve_model("gpt2").total_params == LLAMA_PARAMS
    assert resolve_model("gpt2/config.json").total_params == LLAMA_PARAMS
    with pytest.raises(BadConfigError):
        resolve_model("nowhere/config.json")


@pytest.mark.parametrize("text", ["lama-3.1-8b", "meta-lama/Llama-3.1-8B", "gtp2", "bert-base-uncasd"])
def test_a_misspelt_name_is_answered_with_the_nearest(text: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve_model(text, online=False)
    assert "did you mean" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    "text", ["", "   ", "no such thing at all", "/nowhere/at/all", "\x1b]0;x\x07", "a/b/c", "x" * 5000, "~nobody/x"]
)
def test_nonsense_is_unknown_in_one_short_line(text: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        resolve_model(text)
    assert "\x1b" not in str(caught.value)
    assert len(caught.value.message) < 250


def test_search_ranks_whole_names_and_beginnings_first() -> None:
    assert search_models("gpt2")[0].id == "openai-community/gpt2"
    assert search_models("llama 8b")[0].id.startswith("meta-llama/")
    assert [row.id for row in search_models("mixtral")] == [
        "mistralai/Mixtral-8x22B-v0.1",
        "mistralai/Mixtral-8x7B-v0.1",
    ]
    assert "deepseek-ai/DeepSeek-V3" in [row.id for row in search_models("deepseek-r1-0528")]
    assert search_models("no such model") == ()
    assert len(search_models("", limit=7)) == 7
    assert all("qwen" in row.id.lower() or row.model_type.startswith("qwen") for row in search_models("qwen 7b", 100))


def test_layers_survive_their_short_form() -> None:
    for layers in ((), (0,), (3, 4, 5), (0, 2, 4, 6), (0, 1, 5, 9, 10, 11)):
        assert layers_of(ranges_of(layers)) == layers


def test_a_model_spec_survives_json() -> None:
    model = resolve_model("google/gemma-3-1b-pt")
    assert ModelSpec.model_validate_json(model.model_dump_json()).total_params == model.total_params


def test_resolving_and_searching_import_neither_torch_nor_transformers() -> None:
    code = (
        "import sys\n"
        "from vramplan.planner.adapters.models import resolve_model, search_models\n"
        "assert resolve_model('meta-llama/Llama-3.1-8B').weights and search_models('llama')\n"
        "print(sorted({'torch', 'transformers', 'peft', 'huggingface_hub', 'textual'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


def test_the_models_command_lists_what_matches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mixtral"]) == 0
    out, err = capsys.readouterr()
    assert "mistralai/Mixtral-8x7B-v0.1" in out
    assert "46.70 B" in out
    assert err == ""


def test_a_shortened_list_says_so_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--limit", "3"]) == 0
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 4
    assert "3 of 406 models" in err


def test_the_models_command_shows_one_models_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "meta-llama/Llama-3.1-8B"]) == 0
    out = capsys.readouterr().out
    assert "8,030,261,248" in out
    assert "14.96 GiB" in out  # 8,030,261,248 parameters of 2 bytes
    assert "525,336,576" in out  # 128,256 x 4,096: the embedding, and the head
    assert "131072 tokens" in out


def test_the_card_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "gpt2", "--json"]) == 0
    model = json.loads(capsys.readouterr().out)["model"]
    assert model["total_params"] == sum(model["parameters"].values()) == 124_439_808
    assert "weights" not in model


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "llama", "--json", "--limit", "2"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["models"]) == 2
    assert answer["found"] > 20


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["models", "--limit", "0"], 2),
        (["models", "--revision", "main"], 2),
        (["models", "gtp2"], 2),
        (["models", "microsoft/Phi-3-small-8k-instruct"], 2),
    ],
)
def test_the_models_command_refuses_in_two_lines(
    argv: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2
