"""Exported scripts, really run on a tiny Llama: the losses of the plan's own run, and reports that are read back."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import (
    ANSWERS,
    QUESTIONS,
    make_plan,
    make_setup,
    make_tiny_llama,
    pin,
    prompt_completion_rows,
    write_jsonl,
    write_run,
)
from tests.executor.test_training import trained
from vramplan.planner.adapters.plan_files import read_report
from vramplan.planner.errors import ExitCode
from vramplan.planner.explain import explain
from vramplan.planner.export.engine import Source, export
from vramplan.planner.export.engines import ENGINES
from vramplan.planner.methods import Full, Ia3, Layerwise, LnTuning, Lora, LrGroup, Prefix, Prompt, Ptuning, Qlora
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.training_setup import Precision

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

HALF = Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="bf16")
GROUPED = Layerwise(
    lower_layers=None,
    lower_learning_rate=None,
    lr_groups=(LrGroup(modules="layers.0-0", learning_rate=1e-4), LrGroup(modules="lm_head", learning_rate=1e-5)),
)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "lora with dropout": ({"method": Lora(r=8, lora_dropout=0.1), "gradient_accumulation_steps": 2}, "prompts"),
    "full, checkpointing, stock loss": (
        {"method": Full(), "gradient_checkpointing": True, "loss": "standard"},
        "messages",
    ),
    "the last block alone": ({"method": Full(trainable_blocks=1)}, "text"),
    "layerwise": ({"method": Layerwise(lower_layers=1, lower_learning_rate=1e-4)}, "text"),
    "groups at rates of their own": ({"method": GROUPED}, "text"),
    "qlora in bf16, prepared": ({"method": Qlora(r=4), "precision": HALF, "kbit_preparation": True}, "prompts"),
    "lora on int8": ({"method": Qlora(r=4, quant="int8")}, "prompts"),
    "packed lora from PiSSA": ({"method": Lora(r=4, init_lora_weights="pissa_niter_4"), "packing": True}, "text"),
    "prefix": ({"method": Prefix(num_virtual_tokens=4)}, "prompts"),
    "prompt from text": ({"method": Prompt(num_virtual_tokens=4, prompt_tuning_init_text='what "comes"?')}, "prompts"),
    "p-tuning": ({"method": Ptuning(num_virtual_tokens=4, encoder_hidden_size=16)}, "messages"),
    "ia3": (
        {"method": Ia3(target_modules=("k_proj", "down_proj"), feedforward_modules=("down_proj",))},
        "prompts",
    ),
    "ln-tuning": ({"method": LnTuning(target_modules=("input_layernorm", "norm")), "precision": HALF}, "prompts"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    pairs = list(zip(QUESTIONS, ANSWERS, strict=True))
    turns = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in pairs]
    return {
        "model": make_tiny_llama(folder / "model"),
        "prompts": write_jsonl(folder / "prompts.jsonl", prompt_completion_rows()),
        "text": write_jsonl(folder / "text.jsonl", [{"text": f"{a} {b}"} for a, b in pairs]),
        "messages": write_jsonl(folder / "messages.jsonl", [{"messages": row} for row in turns]),
        "held_out": write_jsonl(folder / "held_out.jsonl", prompt_completion_rows()[:4]),
    }


def _plan(world: dict[str, Path], folder: Path, rows: str = "prompts", **setup: Any) -> Plan:
    held_out = {"eval_data": str(world["held_out"]), "eval_steps": 3} if rows == "prompts" else {}
    return make_plan(
        folder,
        model_path=world["model"],
        data=pin(world[rows]),
        setup=make_setup(**setup),
        sequence_length=64,
        max_steps=4,
        save_steps=2,
        **held_out,
    )


def _write(plan: Plan, folder: Path, engine: str = "script", row_kind: str | None = None) -> Path:
    folder.mkdir()
    for name, text in export(ENGINES[engine], Source(plan, row_kind)).items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _run(command: list[str], folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", **environment}
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)


def _script(plan: Plan, folder: Path, *options: str) -> RunReport:
    done = _run([sys.executable, "-I", "train.py", *options], _write(plan, folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return read_report(folder / "report.json")


@pytest.mark.parametrize("name", CASES)
def test_the_script_takes_the_plans_own_steps(name: str, world: dict[str, Path], tmp_path: Path) -> None:
    setup, rows = CASES[name]
    plan = _plan(world, tmp_path, rows, **setup)
    (tmp_path / "ours").mkdir()
    code, ours, _ = trained(plan, tmp_path / "ours")
    assert code is ExitCode.OK, ours.failure
    theirs = _script(plan, tmp_path / "theirs", "--output-dir", str(tmp_path / "exported"))
    assert (theirs.losses, theirs.eval_loss_before, theirs.eval_loss_after) == (
        ours.losses,
        ours.eval_loss_before,
        ours.eval_loss_after,
    )
    assert theirs.static == ours.static
    assert theirs.measured_shape == ours.measured_shape
    saved = {path.name for path in (tmp_path / "exported").iterdir()}
    assert {"checkpoint-2", "checkpoint-4"} <= saved
    assert saved & {"adapter_model.safetensors", "model.safetensors"}


def test_the_report_is_explained_beside_the_plan(world: dict[str, Path], tmp_path: Path) -> None:
    plan = _plan(world, tmp_path)
    report = _script(plan, tmp_path / "run")
    lines = {line.component: line for phase in explain(plan, report).phases for line in phase.lines}
    assert {name: line.error_bytes for name, line in lines.items()} == dict.fromkeys(lines, 0)
    assert (report.status, report.steps, report.environment["rank"]) == ("done", 4, "0")


def test_the_phases_of_a_gpu_run_follow_the_last_layer(world: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The script's own meter over a real forward and backward pass, with the allocator's statistics played."""
    import torch
    from transformers import AutoModelForCausalLM

    from vramplan.planner.export.script_report import PHASES_CUDA

    readings = iter(range(100, 900, 100))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: next(readings))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda: 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: None)
    defined: dict[str, Any] = {"torch": torch}
    exec(PHASES_CUDA, defined)  # noqa: S102 - ours, and never a plan's
    phases = defined["Phases"]()
    model = AutoModelForCausalLM.from_pretrained(world["model"])
    phases.watch(model)
    ids = torch.arange(4, 12).reshape(1, 8)
    for _ in range(2):
        phases.enter("forward")
        model(input_ids=ids, labels=ids).loss.backward()
        phases.enter("optimizer_step")
        phases.leave()
    peaks = {"forward": 500, "loss": 600, "backward": 700, "optimizer_step": 800}
    assert phases.peaks == {phase: (peak, 1000) for phase, peak in peaks.items()}


def test_the_script_says_why_it_will_not_start(world: dict[str, Path], tmp_path: Path) -> None:
    folder = _write(_plan(world, tmp_path), tmp_path / "run")
    done = _run([sys.executable, "train.py", "--data", str(world["text"])], folder)
    assert done.returncode != 0
    assert "is not the file this was planned for" in done.stderr
    report = read_report(folder / "report.json")
    assert (report.status, report.steps) == ("failed", 0)
    assert "is not the file" in str(report.failure)
    two = _run([sys.executable, "train.py"], folder, WORLD_SIZE="2", RANK="1")
    assert "planned for one process, started as one of 2" in two.stderr


@pytest.mark.parametrize("engine", ["torchrun", "accelerate", "slurm"])
def test_a_launcher_starts_the_script(engine: str, world: dict[str, Path], tmp_path: Path) -> None:
    folder = _write(_plan(world, tmp_path), tmp_path / "it's a run", engine)
    if engine == "slurm":  # srun as it is where there is no cluster: it starts its command
        (tmp_path / "srun").write_text('#!/bin/sh\nshift\nexec "$@"\n')
        (tmp_path / "srun").chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = _run(["bash", "job.sbatch" if engine == "slurm" else "run.sh"], folder, PATH=path)
    assert done.returncode == 0, done.stderr[-3000:]
    report = read_report(folder / "report.json")
    assert (report.status, report.steps, report.environment["world_size"]) == ("done", 4, "1")


def test_trls_command_line_takes_the_plans_first_loss(world: dict[str, Path], tmp_path: Path) -> None:
    """Every row in one batch, so that trl's own order of rows is the plan's."""
    setup = {"method": Lora(r=8, target_modules=("q_proj",)), "micro_batch_size": 40}
    plan = _plan(world, tmp_path, **setup)
    plan = plan.model_copy(update={"recipe": plan.recipe.model_copy(update={"output_dir": str(tmp_path / "out")})})
    (tmp_path / "ours").mkdir()
    _, ours, _ = trained(plan, tmp_path / "ours")
    folder = _write(plan, tmp_path / "trl", "trl", "prompt-completion")
    done = _run(["bash", "run.sh"], folder, HF_DATASETS_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr[-3000:]
    state = json.loads((tmp_path / "out" / "checkpoint-4" / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert losses == pytest.approx([loss for _, loss in ours.losses], rel=1e-5)


def test_a_run_of_a_written_plan_is_explained_by_the_command(
    world: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from vramplan.planner.cli.main import main

    path = write_run(_plan(world, tmp_path), tmp_path / "runs")
    assert main(["export", str(path), "--to", "script"]) == 0
    folder = path.parent / "export-script"
    assert _run([sys.executable, "train.py"], folder).returncode == 0
    capsys.readouterr()
    assert main(["explain", str(path), str(folder / "report.json")]) == 0
    assert "EXPLAIN ANALYZE" in capsys.readouterr().out
