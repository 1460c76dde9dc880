"""The worked examples that the literature on choosing a method uses, as plans and estimates: their counts are those of
the real modules, and where a rule of thumb says something else, ours says why."""

import json
from pathlib import Path
from typing import Any

import pytest

from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.memory.static_methods import adapter_groups
from vramplan.planner.methods import Bottleneck, Lora, Prefix, Qlora
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.resolve import resolve
from vramplan.planner.training_setup import TrainingSetup

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

SEVEN = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"q{n}?", "completion": f"a{n}"}) + "\n" for n in range(64)))
    return path


def estimate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code = run_command(["estimate", *arguments, "--json"])
    assert code in (ExitCode.OK, ExitCode.FAILED, ExitCode.TIGHT)
    printed: dict[str, Any] = json.loads(capsys.readouterr().out)
    return printed


def added_params(model: ModelSpec, method: Any) -> int:
    return sum(group.numel * group.count for group in adapter_groups(model, TrainingSetup(method=method)))


BERT = ("google-bert/bert-base-uncased", "--task", "classification", "--num-labels", "2", "--sequence-length", "128",
        "--micro-batch", "8", "--memory", "12GiB")  # fmt: skip


@pytest.mark.train
def test_bert_base_classification_by_full_fine_tuning(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, *BERT, "--method", "full")
    assert found["trainable_params"] == 109_483_778  # transformers' BertForSequenceClassification with two labels
    assert found["verdict"] == "fits"


@pytest.mark.train
def test_bert_base_classification_by_lora_on_query_and_value(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(
        capsys, *BERT, "--method", "lora", "--rank", "8", "--alpha", "16", "--lora-dropout", "0.1",
        "--target", "query,value",
    )  # fmt: skip
    # 12 layers x 2 linears x 8 (768 + 768), and the classifier: 768 x 2 + 2
    assert found["trainable_params"] == 294_912 + 1_538 == 296_450
    assert found["setup"]["method"]["lora_alpha"] == 16
    assert found["verdict"] == "fits"


@pytest.mark.train
def test_bert_with_lora_is_the_real_module_to_the_parameter() -> None:
    pytest.importorskip("torch")
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import BertConfig, BertForSequenceClassification

    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(num_labels=2))
        config = LoraConfig(
            r=8, lora_alpha=16, lora_dropout=0.1, target_modules=["query", "value"], task_type="SEQ_CLS"
        )
        tuned = get_peft_model(model, config)
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == 296_450
    spec = model_for_task(resolve_model("google-bert/bert-base-uncased"), "classification", 2)
    # the classifier is there twice: PEFT trains a copy
    assert spec.total_params == sum(p.numel() for p in tuned.parameters()) - 294_912 - 1_538


@pytest.mark.train
def test_a_llama_plan_with_lora_on_q_and_v(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run" / "plan.json"
    line = ["plan", "meta-llama/Llama-2-7b-hf", "--method", "lora", "--rank", "16", "--alpha", "32", "--target",
            "q_proj,v_proj", "--micro-batch", "4", "--gradient-accumulation-steps", "8", "--learning-rate", "2e-4",
            "--memory", "24GiB", "--data", str(data), "-o", str(out)]  # fmt: skip
    assert run_command(line) == ExitCode.OK, capsys.readouterr().err
    plan = read_plan(out)
    assert plan.setup.method == Lora(r=16, lora_alpha=32, target_modules=("q_proj", "v_proj"))
    # 32 layers x 2 linears x 16 (4096 + 4096)
    assert plan.model.trainable_params == 8_388_608
    assert plan.workload.sequences_per_step == 32


@pytest.mark.train
def test_a_qlora_plan_in_nf4_with_double_quantisation_on_all_seven_projections(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = resolve_model("meta-llama/Llama-3.1-70B")
    # 80 layers x 16 x (2 (8192 + 8192) + 2 (8192 + 1024) + 3 (8192 + 28672))
    assert added_params(spec, Qlora(target_modules=tuple(SEVEN.split(",")))) == 207_093_760
    out = tmp_path / "run" / "plan.json"
    line = ["plan", "meta-llama/Llama-3.1-70B", "--method", "qlora", "--target", "all-linear", "--device",
            "A100 SXM4 80 GB", "--data", str(data), "-o", str(out)]  # fmt: skip
    assert run_command(line) == ExitCode.OK, capsys.readouterr().err
    plan = read_plan(out)
    assert plan.setup.method == Qlora(target_modules="all-linear", quant="nf4", double_quant=True)
    assert plan.model.trainable_params == 207_093_760
    assert plan.verdict == "fits"
    assert plan.setup.precision.mixed_precision == "bf16"


@pytest.mark.train
def test_a_houlsby_bottleneck_of_64_at_hidden_4096_has_528448_parameters() -> None:
    pytest.importorskip("torch")
    from torch import nn

    from vramplan.planner.trace.bottleneck import BottleneckConfig, BottleneckLayer

    layer = BottleneckLayer(nn.Linear(4096, 4096, device="meta"), "default", BottleneckConfig(bottleneck_size=64))
    trained = [*layer.bottleneck_down.parameters(), *layer.bottleneck_up.parameters()]
    real = sum(parameter.numel() for parameter in trained)
    assert real == 528_448
    # 528,128 is quoted for it; that is not a bottleneck with both of its biases: 2 x 4096 x 64 + 64 + 4096
    spec = resolve_model("meta-llama/Llama-2-7b-hf")
    method = resolve({"method": "adapter"}, spec, None).setup.method
    assert isinstance(method, Bottleneck)
    assert added_params(spec, method) == 32 * 2 * real


@pytest.mark.train
def test_a_prefix_of_20_tokens_on_32_layers_of_4096_has_5242880_parameters() -> None:
    pytest.importorskip("torch")
    import torch
    from peft import PrefixTuningConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    assert added_params(resolve_model("meta-llama/Llama-2-7b-hf"), Prefix(num_virtual_tokens=20)) == 5_242_880
    narrow = LlamaConfig(
        vocab_size=8, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, intermediate_size=8
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(narrow)
    tuned = get_peft_model(model, PrefixTuningConfig(num_virtual_tokens=20, task_type="CAUSAL_LM"))
    assert sum(p.numel() for p in tuned.parameters() if p.requires_grad) == 5_242_880


@pytest.mark.train
def test_lora_of_rank_16_on_a_4096_by_4096_matrix_trains_128_times_fewer() -> None:
    pytest.importorskip("torch")
    from peft import LoraConfig, inject_adapter_in_model
    from torch import nn

    holder = inject_adapter_in_model(
        LoraConfig(r=16, target_modules=["matrix"]),
        nn.ModuleDict({"matrix": nn.Linear(4096, 4096, bias=False, device="meta")}),
    )
    trained = sum(p.numel() for p in holder.parameters() if p.requires_grad)
    assert trained == 131_072
    assert 4096 * 4096 / trained == 128


def test_llama_3b_in_full_trains_every_one_of_its_3212749824_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    found = estimate(capsys, "meta-llama/Llama-3.2-3B", "--method", "full", "--memory", "80GiB")
    assert found["trainable_params"] == 3_212_749_824
