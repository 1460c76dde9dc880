"""Exports before the engines: their parsers where installed, else the keys they know. Broken ones must be refused.

The keys are in tests/fixtures/engines, written by benchmarks/exports.py from the engines themselves, versions within.
"""

import json
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.export_cases import BROKEN, CONFIGS, broken, valid
from vramplan.planner.export.axolotl import VERSION as AXOLOTL
from vramplan.planner.export.engine import Files
from vramplan.planner.export.llamafactory import VERSION as LLAMAFACTORY

SCHEMAS = Path(__file__).parents[1] / "fixtures" / "engines"
OPTIM_CHOICES = ("adamw_torch_fused", "adamw_torch", "adamw_8bit", "paged_adamw_8bit", "adafactor", "sgd", "lion_8bit")
"""LLaMA-Factory's optim is a plain string there; TrainingArguments compares it with its own names."""


def _schema(engine: str) -> Callable[[Path], None]:
    jsonschema = pytest.importorskip("jsonschema")
    yaml = pytest.importorskip("yaml")
    schema = json.loads((SCHEMAS / f"{engine}.json").read_text())
    if engine == "llamafactory":
        schema["properties"]["optim"] = {"enum": OPTIM_CHOICES}
    validator = jsonschema.Draft202012Validator(schema)

    def check(file: Path) -> None:
        *_, content = yaml.safe_load_all(file.read_text())
        validator.validate(content)

    return check


def _trl(file: Path) -> None:
    from trl.scripts.sft import make_parser

    script, training, model, _ = make_parser().parse_args_and_config(["--config", str(file)])
    assert script.dataset_name == "./data"
    assert model.dtype in ("bfloat16", "float16", "float32")
    assert training.max_length == 1024


def _accelerate(file: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    config: Any = load_config_from_file(str(file))
    assert (config.num_processes, str(config.distributed_type)) in (
        (1, "DistributedType.NO"),
        (6, "DistributedType.FSDP"),
        (6, "DistributedType.MULTI_GPU"),
    )
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config) <= options


def _slurm(file: Path) -> None:
    known = {"job-name", "nodes", "ntasks", "ntasks-per-node", "cpus-per-task", "output", "gres"}  # man sbatch, 22.05
    options = [
        line.removeprefix("#SBATCH --").partition("=")[0] for line in file.read_text().splitlines() if "#SBATCH" in line
    ]
    assert set(options) <= known
    subprocess.run(["bash", "-n", str(file)], check=True)


PARSERS: dict[str, Callable[[Path], None]] = {"trl": _trl, "accelerate": _accelerate, "slurm": _slurm}
TRAIN = pytest.mark.train
ENGINES = [pytest.param(name, marks=TRAIN if name in ("trl", "accelerate") else ()) for name in CONFIGS]


def _reasons(engine: str, cases: Iterable[tuple[str, Files]], folder: Path) -> dict[str, str | None]:
    """Why the engine's parser, or what is known of it, refuses each export; None for one it takes."""
    check = PARSERS.get(engine) or _schema(engine)
    reasons: dict[str, str | None] = {}
    for case, files in cases:
        (folder / CONFIGS[engine]).write_text(files[CONFIGS[engine]], encoding="utf-8")
        reasons[case] = None
        try:
            check(folder / CONFIGS[engine])
        except (Exception, SystemExit) as error:
            reasons[case] = f"{type(error).__name__}: {error}"
    return reasons


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_takes_every_export(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "trl":  # the plans are for a GPU with bf16, and TrainingArguments asks for one
        monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    cases = (
        list(valid(engine))[-3:] if engine == "trl" else valid(engine)
    )  # a second each: the others are Trainer's own
    reasons = _reasons(engine, cases, tmp_path)
    assert reasons == dict.fromkeys(reasons)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("engine", ENGINES)
def test_an_engine_refuses_what_is_broken(engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "trl":
        monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    reasons = _reasons(engine, broken(engine), tmp_path)
    assert set(reasons) == set(BROKEN[engine])
    assert [case for case, reason in reasons.items() if reason is None] == []


def test_the_engines_own_parsers_agreed_when_they_were_asked() -> None:
    results = json.loads((Path(__file__).parents[2] / "benchmarks" / "results" / "exports.json").read_text())
    assert set(results) >= {"axolotl", "kubernetes", "llamafactory", "pytorchjob", "skypilot"}
    for engine, answer in results.items():
        assert (answer["wrongly_refused"], answer["wrongly_taken"]) == ({}, []), engine
        assert set(answer["refused"]) == set(BROKEN[engine])
    assert results["axolotl"]["version"].startswith(f"axolotl {AXOLOTL}")
    assert results["llamafactory"]["version"].startswith(f"llamafactory {LLAMAFACTORY},")


@pytest.mark.skipif(shutil.which("sinfo") is None, reason="needs Slurm")
def test_a_slurm_cluster_takes_the_batch_script(tmp_path: Path) -> None:
    up = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, timeout=30, check=False)
    if up.returncode != 0 or not up.stdout.strip():
        pytest.skip("no Slurm cluster is up")
    for kind, cases in (("taken", valid("slurm")), ("refused", broken("slurm"))):
        for case, files in cases:
            (tmp_path / "job.sbatch").write_text(files["job.sbatch"])
            done = subprocess.run(
                ["sbatch", "--test-only", "job.sbatch"], cwd=tmp_path, capture_output=True, check=False
            )
            assert (done.returncode == 0) is (kind == "taken"), (case, done.stderr)
