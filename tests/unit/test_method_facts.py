"""Facts beside each method: complete and sourced, numbers equal to what PEFT's own files and modules hold."""

import json
from typing import Any, get_args

import pytest

from tests.golden_text import assert_golden
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.method_counts import MethodCounts, count_method
from vramplan.planner.method_evidence import MODEL, PUBLISHED, published_for
from vramplan.planner.method_facts import FACTS, facts_of
from vramplan.planner.methods import Method
from vramplan.planner.resolve import resolve

SETTINGS: dict[str, dict[str, Any]] = {
    "learning rate 1e-5": {},
    "r=64 on q_proj, v_proj, rsLoRA": {"rank": 64, "target": "q_proj,v_proj", "use_rslora": True},
    "r=32 on q_proj, v_proj": {"rank": 32, "target": "q_proj,v_proj"},
    "r=32 on q_proj, v_proj, DoRA": {"rank": 32, "target": "q_proj,v_proj", "use_dora": True},
    "20 virtual tokens": {"virtual_tokens": 20},
    "200 virtual tokens": {"virtual_tokens": 200},
    "k_proj, v_proj, down_proj": {},
    "learning rate 1e-4": {},
}
HEADER_BYTES = 24 * 1024
"""The JSON before the tensors of an adapter's file, at most."""


def counts(given: dict[str, Any], model: str = MODEL) -> MethodCounts:
    spec = resolve_model(model)
    return count_method(spec, resolve(given, spec, None).setup)


def test_every_method_has_its_facts_and_every_fact_its_source() -> None:
    kinds = [get_args(member.model_fields["kind"].annotation)[0] for member in get_args(get_args(Method)[0])]
    assert sorted(facts.kind for facts in FACTS) == sorted(kinds)
    for facts in FACTS:
        assert facts.use_when
        assert facts.avoid_when
        told = (facts.inference_fact, facts.forgetting_fact, *facts.use_when, *facts.avoid_when)
        assert all(fact.text and fact.source for fact in told), facts.kind


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.file.removesuffix(".json"))
def test_the_count_is_the_number_of_parameters_peft_trained(run: Any) -> None:
    found = counts({"method": run.kind, **SETTINGS[run.setting]})
    assert found.trainable_params == run.trainable_params


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.file.removesuffix(".json"))
def test_the_checkpoint_is_the_size_of_the_file_peft_wrote(run: Any) -> None:
    found = counts({"method": run.kind, **SETTINGS[run.setting]})
    if run.kind == "ln-tuning":  # that run saved its norms in bf16; ours saves fp32
        assert 0 <= run.file_bytes - found.checkpoint_bytes // 2 < HEADER_BYTES
    else:
        assert 0 <= run.file_bytes - found.checkpoint_bytes < HEADER_BYTES


def test_every_percentage_a_fact_quotes_is_in_the_published_table() -> None:
    published = {f"{run.test_accuracy:.1%}".replace("%", " %") for run in PUBLISHED} | {"0 %"}
    for facts in FACTS:
        for fact in (*facts.use_when, *facts.avoid_when):
            if fact.source.startswith("PEFT's"):
                quoted = [word for word in fact.text.replace(",", "").split() if word.replace(".", "").isdigit()]
                assert all(f"{figure} %" in published for figure in quoted if f"{figure} %" in fact.text), fact.text


def test_a_prefix_of_20_tokens_costs_two_and_a_half_mebibytes_of_cache_a_row_on_llama_8b() -> None:
    # 20 tokens x 32 layers x (a key and a value) x 8 heads x 128 numbers x 2 bytes
    assert counts({"method": "prefix"}, "meta-llama/Llama-3.1-8B").cache_bytes_per_row == 2_621_440


def test_the_rule_of_fourteen_bytes_is_shown_beside_our_count(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["methods", "full", "--model", "meta-llama/Llama-3.1-8B"]) == ExitCode.OK
    out = " ".join(capsys.readouterr().out.split())
    assert "14 bytes a parameter = 2 weights + 2 gradients + 8 optimizer + 2 activations" in out
    # 8,030,261,248 x 14 and x 8 bytes
    assert "104.70 GiB by the rule; 59.83 GiB counted here, 8.00 bytes a parameter" in out
    assert "AdamW's two states have the dtype of the weights: 4 bytes in bf16, not 8" in out


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("methods", "methods --model meta-llama/Llama-3.1-8B"),
        ("methods_lora", "methods lora"),
        ("methods_prefix", "methods prefix --model meta-llama/Llama-3.1-8B --virtual-tokens 8"),
    ],
)
def test_the_output_is_the_golden_one(
    name: str, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    assert run_command(command.split()) == ExitCode.OK
    assert_golden(f"{name}.txt", capsys.readouterr().out)


def test_json_says_everything_the_text_says(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["methods", "ia3", "--model", "meta-llama/Llama-3.1-8B", "--json"]) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    (ia3,) = printed["methods"]
    assert (printed["model"], ia3["kind"], ia3["mergeable"]) == ("meta-llama/Llama-3.1-8B", "ia3", True)
    assert ia3["counts"]["trainable_params"] == 524_288
    assert [run["file"] for run in ia3["published"]] == [run.file for run in published_for("ia3")]
    assert facts_of("ia3").model_dump(mode="json").items() <= ia3.items()


def test_a_method_a_model_cannot_have_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["methods", "bitfit", "--model", "meta-llama/Llama-3.1-8B"]) == ExitCode.OK
    assert "has no bias terms" in capsys.readouterr().out


@pytest.mark.parametrize("line", ["methods loro", "methods --rank 8"])
def test_what_makes_no_sense_is_refused_with_a_remedy(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(line.split()) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 2
