"""Merging: the folder computes what base and adapter compute, is whole or absent, and is refused in words."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_tiny_llama
from tests.executor.finished_runs import finish
from vramplan.executor import merge_request
from vramplan.executor.finished import finished_run
from vramplan.executor.merge_request import MergeRequest
from vramplan.planner.adapters.host import HostMemory
from vramplan.planner.adapters.safetensors_headers import read_folder_headers
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Bottleneck, Full, Ia3, LnTuning, Lora, Prefix, Prompt, Ptuning, Qlora
from vramplan.planner.units import GIB

pytest.importorskip("torch")
pytestmark = [
    pytest.mark.train,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Unsupported layer type .*RMSNorm:UserWarning"),
]

MERGEABLE = {
    "lora": Lora(r=8),
    "dora": Lora(r=8, use_dora=True, use_rslora=True),
    "saved modules": Lora(r=8, modules_to_save=("embed_tokens",)),
    "qlora nf4": Qlora(r=8),
    "qlora fp4": Qlora(r=8, quant="fp4", double_quant=False),
    "ia3": Ia3(target_modules=("k_proj", "v_proj", "down_proj"), feedforward_modules=("down_proj",)),
    "ln-tuning": LnTuning(target_modules=("input_layernorm", "norm")),
    "ia3 on nf4": Ia3(target_modules=("k_proj", "down_proj"), feedforward_modules=("down_proj",), quant="nf4"),
}
NOT_MERGEABLE = {
    "adapter": (Bottleneck(target_modules=("o_proj", "down_proj")), "non-linearity"),
    "prefix": (Prefix(num_virtual_tokens=4), "extra input"),
    "prompt": (Prompt(num_virtual_tokens=4), "extra input"),
    "ptuning": (Ptuning(num_virtual_tokens=4, encoder_hidden_size=64), "extra input"),
    "full": (Full(), "nothing to merge"),
}


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_llama(tmp_path_factory.mktemp("model"))


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(input_ids=torch.arange(4, 36).reshape(2, 16)).logits


def unmerged_logits(folder: Path) -> Any:
    from vramplan.executor.finished_model import load_tuned

    run = finished_run(str(folder)).tuned
    return logits(load_tuned(run, run.plan(), device="cpu"))


def merge_here(folder: Path, **changes: Any) -> Path:
    """The worker's part of a merge, in this process."""
    from vramplan.executor.merge_weights import merge

    found = finished_run(str(folder))
    asked = {"output": str(folder / "merged"), "dtype": "fp32", "max_shard_bytes": 100_000, **changes}
    merge(MergeRequest(run=found.tuned, **asked), lambda what: None)
    return Path(asked["output"])


@pytest.mark.parametrize("name", MERGEABLE)
def test_a_merged_model_computes_what_base_and_adapter_compute(name: str, model_path: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = finish(tmp_path / "run", model_path, MERGEABLE[name])
    expected = unmerged_logits(folder)
    merged = merge_here(folder)
    model = AutoModelForCausalLM.from_pretrained(merged)
    found = logits(model)
    base = logits(AutoModelForCausalLM.from_pretrained(model_path))
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert (base - expected).abs().max() > 1e-2 * expected.abs().max()
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    assert AutoTokenizer.from_pretrained(merged).chat_template is not None
    assert len(list(merged.glob("*.safetensors"))) > 1
    assert [path.name for path in merged.parent.iterdir() if path.name.startswith(".merged")] == []


def test_a_merge_in_half_precision_rounds_every_weight_once(model_path: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    folder = finish(tmp_path / "run", model_path, Lora(r=8))
    whole, half = merge_here(folder), merge_here(folder, output=str(folder / "half"), dtype="bf16", max_shard_bytes=GIB)
    exact = {name: tensor for path in whole.glob("*.safetensors") for name, tensor in load_file(path).items()}
    rounded = load_file(half / "model.safetensors")
    assert exact.keys() == rounded.keys()
    assert all(torch.equal(rounded[name], exact[name].to(torch.bfloat16)) for name in exact)
    assert json.loads((half / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_int8_base_is_merged_as_the_numbers_it_holds(model_path: Path, tmp_path: Path) -> None:
    """Rows of int8 times their scale over 127, and B A beside them. What an 8-bit matmul computes is not that product:
    it rounds its input to 8 bits too (Dettmers et al., 2022, arXiv:2208.07339), so outputs agree to that alone."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    from vramplan.executor.finished_model import load_for_use

    folder = finish(tmp_path / "run", model_path, Qlora(r=8, quant="int8"))
    merged = merge_here(folder, max_shard_bytes=GIB)
    found, name = load_file(merged / "model.safetensors"), "model.layers.1.mlp.up_proj"
    base = load_for_use(finished_run(str(folder)).plan, device="cpu").get_submodule(name).weight
    adapter = load_file(finished_run(str(folder)).result / "adapter_model.safetensors")
    a, b = (adapter[f"base_model.model.{name}.lora_{side}.weight"].float() for side in "AB")
    held = base.data.float() * base.SCB[:, None] / 127
    assert (found[f"{name}.weight"] - (held + 4 * b @ a)).abs().max() <= 1e-6
    close, expected = logits(AutoModelForCausalLM.from_pretrained(merged)), unmerged_logits(folder)
    assert (close - expected).abs().max() <= 0.05 * expected.abs().max()


def test_gpt2_keeps_its_transposed_linears_after_qlora(tmp_path: Path, model_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    gpt2 = tmp_path / "gpt2"
    shutil.copytree(model_path, gpt2)
    (gpt2 / "model.safetensors").unlink()
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=64, n_layer=2, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=1)
    GPT2LMHeadModel(config).save_pretrained(gpt2)
    folder = finish(tmp_path / "run", gpt2, Qlora(r=8, target_modules=("c_attn", "c_proj")))
    merged = merge_here(folder)
    found, expected = logits(AutoModelForCausalLM.from_pretrained(merged)), unmerged_logits(folder)
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    stored, original = read_folder_headers(merged), read_folder_headers(gpt2)
    assert stored is not None
    assert original is not None
    assert {name: tensor.shape for name, tensor in stored.items()} == {
        name: tensor.shape for name, tensor in original.items()
    }


@pytest.mark.parametrize("name", NOT_MERGEABLE)
def test_what_cannot_be_merged_is_refused_with_the_reason(
    name: str, model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method, reason = NOT_MERGEABLE[name]
    folder = finish(tmp_path / "run", model_path, method)
    capsys.readouterr()
    assert run_command(["merge", str(folder)]) == ExitCode.USAGE
    err = capsys.readouterr().err
    assert reason in err
    assert len(err.splitlines()) == 2
    assert not (folder / "merged").exists()


def test_the_command_merges_in_a_process_of_its_own(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tmp_path / "run", model_path, Qlora(r=8))
    assert run_command(["merge", str(folder), "--json"]) == ExitCode.OK, capsys.readouterr().err
    out, err = capsys.readouterr()
    printed = json.loads(out)
    assert (printed["output"], printed["dtype"]) == (str(folder / "merged"), "fp32")
    assert printed["size_bytes"] == sum(path.stat().st_size for path in (folder / "merged").iterdir())
    assert "dequantising" in err
    assert run_command(["merge", str(folder)]) == ExitCode.USAGE
    assert "exists already" in capsys.readouterr().err
    (folder / "output" / "adapter_model.safetensors").write_bytes(b"torn")
    assert run_command(["merge", str(folder), "-o", str(tmp_path / "other")]) == ExitCode.USAGE
    assert not (tmp_path / "other").exists()


def test_too_little_memory_or_disk_is_known_before_anything_is_loaded(
    model_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tmp_path / "run", model_path, Lora(r=8))
    monkeypatch.setattr(merge_request, "free_bytes", lambda place: 1000)
    assert run_command(["merge", str(folder)]) == ExitCode.REFUSED
    assert "1000 B are free there" in capsys.readouterr().err
    monkeypatch.setattr(merge_request, "read_host_memory", lambda: HostMemory(GIB, 2**20, False))
    assert run_command(["merge", str(folder)]) == ExitCode.REFUSED
    assert "1.00 MiB are available" in capsys.readouterr().err


def test_an_adapter_taken_out_alone_loads_and_names_its_base(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = finish(tmp_path / "run", model_path, Prefix(num_virtual_tokens=4))
    (folder / "output" / "training_args.bin").write_bytes(b"a pickle")
    (folder / "output" / "checkpoint-1").mkdir()
    assert run_command(["merge", str(folder), "--adapter-only", "-o", str(tmp_path / "out")]) == ExitCode.OK
    assert "training_args.bin" not in {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / "checkpoint-1").exists()
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(model_path)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_path), tmp_path / "out").eval()
    expected = unmerged_logits(folder)
    assert (logits(model) - expected).abs().max() == 0


def test_a_run_that_has_not_finished_is_no_run_to_merge(
    model_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finish(tmp_path / "run", model_path, Lora(r=8))
    (folder / "output" / "adapter_model.safetensors").unlink()
    assert run_command(["merge", str(folder)]) == ExitCode.FAILED
    assert "holds no adapter_model.safetensors" in capsys.readouterr().err
    (folder / "report.json").unlink()
    assert run_command(["merge", str(folder)]) == ExitCode.FAILED
    assert "has not finished: planned" in capsys.readouterr().err
