"""Exported scripts as two processes over gloo on a CPU: the losses of one process on the same rows, a report each."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_plan, make_setup, make_tiny_llama, pin, prompt_completion_rows, write_jsonl
from vramplan.planner.adapters.plan_files import read_report
from vramplan.planner.export import launchers, script
from vramplan.planner.export.engine import Source
from vramplan.planner.methods import Full, Lora, Method
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

ON_A_CPU = """
import os
import accelerate.state
from accelerate.utils import DistributedType

init = accelerate.state.AcceleratorState.__init__
many = (DistributedType.MULTI_CPU, DistributedType.FSDP)

def sharding(self, *args, **options):
    init(self, *args, **options)
    if os.environ.get("ACCELERATE_USE_FSDP") and self.distributed_type in many:
        self.distributed_type = DistributedType.FSDP
        self.fsdp_plugin = options.get("fsdp_plugin") or self.fsdp_plugin

accelerate.state.AcceleratorState.__init__ = sharding
"""
"""accelerate shards models on GPUs alone, FSDP2 itself anywhere: a ``sitecustomize`` that lets it do so on a CPU."""
EVERY = 4
"""Rows of a step: two micro batches on each of two ranks."""
SPLIT = ("weights", "adapter", "gradients")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("world")
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(ON_A_CPU)
    return {
        "model": make_tiny_llama(folder / "model"),
        "rows": write_jsonl(folder / "rows.jsonl", prompt_completion_rows()),
        "held_out": write_jsonl(folder / "held_out.jsonl", prompt_completion_rows()[:4]),
        "site": folder / "site",
    }


def _plan(world: dict[str, Path], folder: Path, **setup: Any) -> Plan:
    return make_plan(
        folder,
        model_path=world["model"],
        data=pin(world["rows"]),
        setup=make_setup(micro_batch_size=1, **setup),
        sequence_length=64,
        max_steps=4,
        save_steps=2,
        learning_rate=1e-3,
        eval_data=str(world["held_out"]),
    )


def _run(plan: Plan, folder: Path, site: Path) -> None:
    """The files without the refusals: FSDP2 on a CPU is one."""
    folder.mkdir()
    write = launchers.write_torchrun if plan.setup.world_size > 1 else script.write
    for name, text in write(Source(plan, None)).items():
        (folder / name).write_text(text, encoding="utf-8")
    command = ["bash", "run.sh"] if plan.setup.world_size > 1 else [sys.executable, "train.py"]
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(site)}
    given |= {"OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


@pytest.fixture(scope="module")
def alone(world: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The report of one process that takes as many rows a step, once for each method."""
    found: dict[str, RunReport] = {}

    def report(method: Method) -> RunReport:
        if method.kind not in found:
            folder = tmp_path_factory.mktemp(method.kind)
            _run(_plan(world, folder, method=method, gradient_accumulation_steps=EVERY), folder / "run", world["site"])
            found[method.kind] = read_report(folder / "run" / "report.json")
        return found[method.kind]

    return report


@pytest.mark.parametrize(
    ("sharding", "method"),
    [("ddp", Full()), ("fsdp", Full()), ("fsdp", Lora(r=4))],
    ids=["ddp full", "fsdp full", "fsdp lora"],
)
def test_two_processes_take_the_steps_of_one(
    sharding: str, method: Method, world: dict[str, Path], alone: Any, tmp_path: Path
) -> None:
    one = alone(method)
    checkpointing = sharding == "fsdp"
    setup = {"gpus": 2, "sharding": sharding, "gradient_checkpointing": checkpointing}
    plan = _plan(world, tmp_path, method=method, gradient_accumulation_steps=EVERY // 2, **setup)
    _run(plan, tmp_path / "run", world["site"])
    ranks = [read_report(tmp_path / "run" / name) for name in ("report.json", "report-rank1.json")]
    parts = 2 if sharding == "fsdp" else 1
    for rank in ranks:
        assert [loss for _, loss in rank.losses] == pytest.approx([loss for _, loss in one.losses], rel=1e-4)
        assert rank.eval_loss_after == pytest.approx(one.eval_loss_after, rel=1e-4)
        assert (rank.status, rank.steps, rank.environment["world_size"]) == ("done", 4, "2")
        assert [rank.static[each] * parts for each in SPLIT] == [one.static[each] for each in SPLIT]
    assert _saved(tmp_path / "output") == {
        name: pytest.approx(values, abs=2e-4) for name, values in _saved(Path(one.output_dir)).items()
    }


def _saved(folder: Path) -> dict[str, list[float]]:
    """The first values of every tensor of a result, whole."""
    from safetensors.torch import load_file

    (file,) = folder.glob("*model.safetensors")
    return {f"{name} {tuple(tensor.shape)}": tensor.flatten()[:9].tolist() for name, tensor in load_file(file).items()}


def test_other_processes_than_planned_do_not_start(world: dict[str, Path], tmp_path: Path) -> None:
    given = _plan(world, tmp_path, gpus=2, nodes=2, sharding="ddp")
    (tmp_path / "train.py").write_text(script.write(Source(given, None))["train.py"])
    started = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    done = subprocess.run(
        [sys.executable, "train.py"], cwd=tmp_path, env=started, capture_output=True, text=True, check=False
    )
    assert "planned for 4 processes, 2 on each of 2 nodes; started as one of 2, 2 on this node" in done.stderr
