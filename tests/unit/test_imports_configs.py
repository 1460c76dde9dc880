"""Other trainers' configs, priced: what each says is read, what is not priced is refused by its key."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.export_plans import BY_ENGINE, neighbours, source
from vramplan.planner.adapters.trainer_configs import read_trainer_config
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import UnsupportedError, UsageError
from vramplan.planner.export.engine import Source, export
from vramplan.planner.export.engines import ENGINES
from vramplan.planner.export.limits import SAID_FIELDS
from vramplan.planner.imports.engine import Imported

FILES = {"axolotl": "config.yaml", "llamafactory": "train.yaml", "trl": "sft.yaml"}
ALPACA_QLORA = """
base_model: NousResearch/Llama-3.2-1B
load_in_4bit: true
adapter: qlora
datasets:
  - path: teknium/GPT4-LLM-Cleaned
    type: alpaca
sequence_len: 2048
sample_packing: false
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_modules: [gate_proj, down_proj, up_proj, q_proj, v_proj, k_proj, o_proj]
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 1
optimizer: adamw_bnb_8bit
learning_rate: 2e-4
bf16: auto
gradient_checkpointing: true
lora_mlp_kernel: false
lora_qkv_kernel: false
lora_o_kernel: false
"""
LORA_SFT = """
model_name_or_path: Qwen/Qwen2.5-0.5B
stage: sft
finetuning_type: lora
lora_target: all
template: qwen
per_device_train_batch_size: 1
bf16: true
"""


def imported(tmp_path: Path, engine: str, given: Source) -> Imported:
    path = tmp_path / FILES[engine]
    path.write_text(export(ENGINES[engine], given)[FILES[engine]], encoding="utf-8")
    return read_trainer_config(path)


@pytest.mark.parametrize("engine", FILES)
def test_what_an_export_says_is_read_back_field_by_field(engine: str, tmp_path: Path) -> None:
    """No setting is dropped on the way in: a change of one alone is a change of the options."""
    for method in BY_ENGINE[engine]:
        given = source(engine, method)
        before = imported(tmp_path, engine, given)
        assert before.model == given.plan.model.repo_id
        hollow = []  # but for what a file only says in its comments and the environment
        for field, value, plan in neighbours(given.plan):
            if not field.startswith(("setup.", "workload.sequence_length")) or field in SAID_FIELDS:
                continue
            try:
                after = imported(tmp_path, engine, Source(plan, given.row_kind))
            except UnsupportedError:
                continue
            if after.options == before.options:
                hollow.append((method.kind, field, value))
        assert hollow == []


def test_an_axolotl_config_is_read_with_its_own_words(tmp_path: Path) -> None:
    path = tmp_path / "qlora.yml"
    path.write_text(ALPACA_QLORA)
    found = read_trainer_config(path)
    assert (found.engine, found.model) == ("Axolotl", "NousResearch/Llama-3.2-1B")
    said = {
        "method": "qlora", "quant": "nf4", "double_quant": True, "rank": 32, "alpha": 16, "sequence_length": 2048,
        "micro_batch": 2, "gradient_accumulation_steps": 4, "optimizer": "adamw_8bit", "learning_rate": 2e-4,
        "dtype": "bf16", "mixed_precision": "bf16", "loss": "standard", "loop": "trainer",
        "target": "gate_proj,down_proj,up_proj,q_proj,v_proj,k_proj,o_proj", "num_train_epochs": 1,
    }  # fmt: skip
    assert {name: found.options[name] for name in said} == said
    assert found.unread == ("datasets",)


def test_what_llamafactory_does_when_nothing_is_said(tmp_path: Path) -> None:
    """The defaults of its 0.9.5: rank 8, alpha twice that, 2048 tokens, checkpointing on."""
    path = tmp_path / "lora.yaml"
    path.write_text(LORA_SFT)
    found = read_trainer_config(path)
    said = {"rank": 8, "alpha": 16, "sequence_length": 2048, "gradient_checkpointing": True, "adapter_dtype": "fp32"}
    assert {name: found.options[name] for name in said} == said
    assert found.notes == ("reentrant checkpointing (use_reentrant_gc) is priced as non-reentrant",)


def test_what_trl_does_when_nothing_is_said(tmp_path: Path) -> None:
    trl = pytest.importorskip("trl")
    fields = trl.SFTConfig.__dataclass_fields__ | trl.ModelConfig.__dataclass_fields__
    path = tmp_path / "sft.yaml"
    path.write_text("model_name_or_path: a/b\nuse_peft: true\nlora_target_modules: [q_proj]\n")
    options = read_trainer_config(path).options
    for option, key in {
        "sequence_length": "max_length", "micro_batch": "per_device_train_batch_size", "rank": "lora_r",
        "alpha": "lora_alpha", "lora_dropout": "lora_dropout", "gradient_checkpointing": "gradient_checkpointing",
        "optimizer": "optim", "packing": "packing", "use_dora": "use_dora",
    }.items():  # fmt: skip
        assert options[option] == fields[key].default, key
    assert options["dtype"] == {"float32": "fp32"}[fields["dtype"].default]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (ALPACA_QLORA + "deepspeed: zero3.json\n", "deepspeed"),
        (ALPACA_QLORA + "liger_rope: true\n", "liger_rope"),
        (ALPACA_QLORA.replace("lora_mlp_kernel: false", "lora_mlp_kernel: true"), "lora_mlp_kernel"),
        (ALPACA_QLORA.replace("adamw_bnb_8bit", "q_galore_adamw8bit"), "q_galore_adamw8bit"),
        (LORA_SFT + "use_unsloth: true\n", "use_unsloth"),
        (LORA_SFT.replace("stage: sft", "stage: dpo"), "stage"),
        ("model_name_or_path: a/b\nloss_type: dft\n", "loss_type"),
        ("model_name_or_path: a/b\nuse_peft: true\n", "lora_target_modules"),
        ("model_name_or_path: a/b\nmax_length: many\n", "max_length"),
        ("model_name_or_path: [a]\n", "model_name_or_path"),
        ("learning_rate: 1\n", "TRL, Axolotl or LLaMA-Factory"),
        ("- a\n- b\n", "no settings by name"),
        ("a: [", "no YAML"),
        ("model_name_or_path: a/b\na: &a [x, x]\nlearning_rate: [*a, *a]\n", "aliases"),
        ("[" * 100_000, "deeper"),
        ("!!python/object/apply:os.system ['touch pwned']", "no YAML"),
    ],
)
def test_what_is_not_priced_is_refused_by_name(
    text: str, key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(text)
    assert run_command(["estimate", "c.yaml"]) == 2
    assert key in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["c.yaml"]


def test_options_given_beside_the_file_win(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(ALPACA_QLORA.replace("adamw_bnb_8bit", "muon") + "deepspeed: zero3.json\n")
    found = read_trainer_config(path, given={"optimizer", "sharding"})
    assert "optimizer" not in found.options


def test_a_plan_from_a_config_runs_in_our_own_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, plan, rows = tmp_path / "c.yaml", tmp_path / "plan.json", tmp_path / "rows.jsonl"
    path.write_text(LORA_SFT)
    rows.write_text('{"text": "a row"}\n' * 4)
    arguments = ["--device", "RTX 4090", "--data", str(rows), "-o", str(plan), "--sequence-length", "512"]
    assert run_command(["plan", str(path), *arguments]) == 0
    said = capsys.readouterr()
    assert "LLaMA-Factory config c.yaml: Qwen/Qwen2.5-0.5B" in said.err
    assert '"r": 8' in plan.read_text()
    assert '"loop": "executor"' in plan.read_text()


KEYS = ("base_model", "model_name_or_path", "stage", "adapter", "lora_r", "bf16", "plugins", "optimizer", "max_length",
        "lora_target", "gradient_checkpointing_kwargs")  # fmt: skip
VALUES = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.text(max_size=3), max_size=2)


@settings(max_examples=60)
@given(st.dictionaries(st.sampled_from(KEYS), VALUES))
def test_any_settings_are_read_or_refused(config: dict[str, Any]) -> None:
    from vramplan.planner.imports import axolotl, llamafactory, trl
    from vramplan.planner.imports.engine import read_config

    try:
        found = read_config(config, (axolotl.READER, llamafactory.READER, trl.READER))
    except (UsageError, UnsupportedError):
        return
    assert found.model
