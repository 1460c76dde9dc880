"""Two stages as one plan: how options are parted, what the plan holds, and in which order it is carried out."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_budget, make_candidate, make_device, make_model_spec
from vramplan.executor import stages
from vramplan.executor.evidence import Evidence, write_report
from vramplan.executor.runs import find_runs
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import main
from vramplan.planner.errors import ExitCode, PreflightError, UsageError
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.plan import Plan
from vramplan.planner.resolve import Resolved
from vramplan.planner.stages import later_plan, with_later_stages
from vramplan.planner.two_stage import stage_wishes
from vramplan.planner.units import GIB

SIZES = {Lora: 9 * GIB, Qlora: 5 * GIB, Full: 14 * GIB}


def price(subject: subjects.Subject, resolved: Resolved, **_: Any) -> Candidate:
    size_bytes = SIZES[type(resolved.setup.method)]
    budget = make_budget(process_bytes=size_bytes, total_params=subject.model.total_params)
    return make_candidate(
        model=subject.model, setup=resolved.setup, workload=resolved.workload, device=subject.device, budget=budget
    )


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    subject = subjects.Subject(make_model_spec(), make_device(), "", True, None)
    monkeypatch.setattr(subjects, "look_up", lambda args: subject)
    monkeypatch.setattr(subjects, "price", price)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def planned(folder: Path, *options: str) -> Plan:
    assert main(["plan", "llama", "--method", "two-stage", "-o", str(folder / "x" / "plan.json"), *options]) == 0
    return read_plan(folder / "x" / "plan.json")


def test_options_are_parted_between_the_stages() -> None:
    given = {"method": "two-stage", "rank": 8, "learning_rate": 1e-3, "second_learning_rate": 1e-5, "max_steps": 9}
    first, second = stage_wishes(given | {"micro_batch": 2, "trainable_blocks": 1}, make_model_spec())
    assert first == {"method": "lora", "rank": 8, "learning_rate": 1e-3, "max_steps": 9, "micro_batch": 2}
    assert second == {
        "method": "full",
        "learning_rate": 1e-5,
        "max_steps": 9,
        "micro_batch": 2,
        "trainable_blocks": 1,
    }


def test_a_quantised_base_is_for_the_first_stage_alone() -> None:
    first, second = stage_wishes({"method": "two-stage", "quant": "nf4"}, make_model_spec())
    assert (first["method"], first["quant"]) == ("qlora", "nf4")
    assert "quant" not in second


def test_what_makes_no_sense_is_refused_under_its_own_name() -> None:
    with pytest.raises(UsageError, match="--second-learning-rate -1"):
        stage_wishes({"method": "two-stage", "second_learning_rate": -1.0}, make_model_spec())
    with pytest.raises(UsageError, match="sharding"):
        stage_wishes({"method": "two-stage", "sharding": "fsdp"}, make_model_spec())


def test_a_plan_holds_two_complete_stages_each_with_its_budget(commands: Path) -> None:
    plan = planned(commands, "--rank", "8", "--trainable-blocks", "1", "--second-max-steps", "4")
    (later,) = plan.later_stages
    assert isinstance(plan.setup.method, Lora)
    assert later.setup.method == Full(trainable_blocks=1)
    assert (plan.budget.process_bytes, later.budget.process_bytes) == (9 * GIB, 14 * GIB)
    assert (plan.recipe.learning_rate, later.recipe.learning_rate) == (2e-4, 2e-5)
    assert later.recipe.max_steps == 4
    assert plan.recipe.output_dir == str(commands / "x" / "model")
    assert later.recipe.output_dir == str(commands / "x" / "stage-2" / "model")


def test_a_named_output_is_the_last_stages(commands: Path) -> None:
    plan = planned(commands, "--output-dir", "tuned", "--trainable-blocks", "1")
    assert plan.recipe.output_dir == str(commands / "x" / "model")
    assert plan.later_stages[0].recipe.output_dir == "tuned"


def test_the_fingerprint_covers_the_later_stages_but_not_their_readings(commands: Path) -> None:
    plan = planned(commands, "--trainable-blocks", "1")
    (later,) = plan.later_stages

    def fingerprint(**changes: Any) -> str:
        return with_later_stages(plan, (later.model_copy(update=changes),)).fingerprint

    assert fingerprint(verdict="no") == plan.fingerprint
    assert fingerprint(program=later.program.model_copy(update={"origin": "traced"})) == plan.fingerprint
    assert fingerprint(setup=later.setup.model_copy(update={"method": Full(trainable_blocks=2)})) != plan.fingerprint
    assert later_plan(plan, 2).fingerprint != plan.fingerprint


def test_estimate_and_explain_show_both(commands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = planned(commands, "--trainable-blocks", "1")
    capsys.readouterr()
    assert main(["estimate", "llama", "--method", "two-stage", "--trainable-blocks", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["process_bytes"] for stage in found] == [9 * GIB, 14 * GIB]
    assert main(["explain", str(commands / "x" / "plan.json"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["plan"]["setup"]["method"]["kind"] for stage in found] == ["lora", "full"]
    assert found[1]["figures"][2]["estimate_bytes"] == plan.later_stages[0].budget.process_bytes
    assert main(["explain", str(commands / "x" / "plan.json")]) == 0
    text = capsys.readouterr().out
    assert "stage 1 of 2" in text
    assert "full, last block" in text


def test_no_engine_is_told_the_first_stage_for_the_whole(commands: Path, capsys: pytest.CaptureFixture[str]) -> None:
    planned(commands, "--trainable-blocks", "1")
    assert main(["export", str(commands / "x" / "plan.json"), "--to", "script"]) == ExitCode.USAGE
    assert "an export is one stage" in capsys.readouterr().err


class Runs:
    """Stands for what runs one plan and what merges: notes each call, and leaves what a real one would."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: Plan) -> None:
        self.calls: list[tuple[str, bool]] = []
        self.ends = ExitCode.OK
        monkeypatch.setattr(stages, "check_later", lambda plan, folder, allow: None)
        monkeypatch.setattr(stages, "merge", self.merge)

    def one(self, args: argparse.Namespace) -> tuple[ExitCode, dict[str, Any]]:
        self.calls.append((args.plan.parent.name, args.resume))
        plan = read_plan(args.plan)
        result = Path(plan.recipe.output_dir)
        result.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_model.safetensors", "adapter_config.json", "model.safetensors"):
            (result / name).write_text(f"weights {len(self.calls)}")
        write_report(Evidence(plan).report("done" if self.ends is ExitCode.OK else "interrupted"), args.plan.parent)
        return self.ends, {"preflight": None, "report": None}

    def merge(self, found: Any, output: Path, dtype: str) -> None:
        self.calls.append((f"merge {found.name} in {dtype}", False))
        output.mkdir()
        (output / "config.json").write_text(json.dumps({**found.plan.model_dump()["setup"], "model_type": "llama"}))


@pytest.fixture
def runs(commands: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(stages, "read_config", lambda folder: json.loads((folder / "config.json").read_text()))
    return Runs(monkeypatch, planned(commands, "--trainable-blocks", "1", "--dtype", "bf16"))


def go(runs: Runs, folder: Path, **options: bool) -> ExitCode:
    args = argparse.Namespace(
        plan=folder / "x" / "plan.json", resume=False, start_over=False, json=False, allow_drift=[]
    )
    vars(args).update(options)
    return stages.run_stages(args, read_plan(args.plan), runs.one)


def test_the_stages_run_in_order_with_a_merge_between_them(runs: Runs, commands: Path) -> None:
    assert go(runs, commands) is ExitCode.OK
    assert [name for name, _ in runs.calls] == ["x", "merge x in bf16", "stage-2"]
    second = read_plan(commands / "x" / "stage-2" / "plan.json")
    assert second.model.path == str(commands / "x" / "merged")
    assert second.setup.method == Full(trainable_blocks=1)
    assert sorted(Path(run.folder).name for run in find_runs(commands)[0]) == ["stage-2", "x"]


def test_what_is_done_is_not_done_again(runs: Runs, commands: Path) -> None:
    runs.ends = ExitCode.INTERRUPTED
    assert go(runs, commands) is ExitCode.INTERRUPTED
    assert [name for name, _ in runs.calls] == ["x"]
    runs.ends = ExitCode.OK
    go(runs, commands)
    assert [name for name, _ in runs.calls] == ["x", "x", "merge x in bf16", "stage-2"]
    go(runs, commands)
    assert len(runs.calls) == 4
    go(runs, commands, start_over=True)
    assert [name for name, _ in runs.calls[4:]] == ["x", "merge x in bf16", "stage-2"]


def test_a_merged_model_of_another_adapter_is_not_trained_on(runs: Runs, commands: Path) -> None:
    go(runs, commands)
    (commands / "x" / "model" / "adapter_model.safetensors").write_text("other weights")
    (commands / "x" / "stage-2" / "report.json").unlink()
    with pytest.raises(PreflightError, match="holds another model"):
        go(runs, commands)
    assert len(runs.calls) == 3


def test_a_folder_of_a_persons_own_is_not_removed(runs: Runs, commands: Path) -> None:
    (commands / "x" / "merged").mkdir()
    with pytest.raises(UsageError, match="was not made by"):
        go(runs, commands, start_over=True)
    assert (commands / "x" / "merged").is_dir()
