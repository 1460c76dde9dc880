"""A plan of two stages, planned and run as a person would: both estimates beside what was measured, one result."""

import json
from pathlib import Path

import pytest

from tests.executor.factories import write_jsonl
from tests.executor.task_worlds import make_model, rows_of
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.cli.main import run_command

pytest.importorskip("torch")
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

PEAK_ERROR = 0.02


@pytest.mark.parametrize(("task", "family", "quant"), [("causal-lm", "llama", "nf4"), ("classification", "bert", None)])
def test_two_stages_run_as_one_plan(
    task: str, family: str, quant: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load_file

    model = make_model(tmp_path / "model", family, task)
    data = write_jsonl(tmp_path / "train.jsonl", rows_of(task))
    plan_path = tmp_path / "run" / "plan.json"
    options = ["--method", "two-stage", "--task", task, "--data", str(data), "--device", "cpu", "--rank", "4"]
    options += ["--trainable-blocks", "1", "--max-steps", "4", "--learning-rate", "1e-2", "--micro-batch", "4"]
    options += ["--second-max-steps", "3", "--second-learning-rate", "1e-3", "--dtype", "fp32"]
    options += ["--quant", quant] if quant else []
    assert run_command(["plan", str(model), *options, "-o", str(plan_path)]) == 0
    assert run_command(["run", str(plan_path), "--no-verify"]) == 0
    capsys.readouterr()

    assert run_command(["explain", str(plan_path), "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert len(stages) == 2
    for stage in stages:
        allocated = stage["figures"][0]
        assert stage["report"]["status"] == "done"
        assert abs(allocated["error_fraction"]) < PEAK_ERROR
        counted = [line["error_bytes"] for phase in stage["phases"] for line in phase["lines"] if line["actual_bytes"]]
        assert set(counted) == {0}

    first, second = read_report(plan_path.parent / "report.json"), read_report(tmp_path / "run/stage-2/report.json")
    assert first.first_loss is not None
    assert second.last_loss is not None
    assert second.last_loss < first.first_loss
    merged = load_file(tmp_path / "run/merged/model.safetensors")
    result = load_file(tmp_path / "run/stage-2/model/model.safetensors")
    moved = {name for name in merged if not merged[name].equal(result[name])}
    assert moved
    assert all(".2." in name or name.startswith("classifier") for name in moved)
    assert read_plan(tmp_path / "run/stage-2/plan.json").model.path == str(tmp_path / "run/merged")
