"""Sweeps: the plans they write, and the order and the faults of their queue."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_budget, make_candidate, make_device, make_model_spec
from vramplan.executor import queue
from vramplan.executor.queue import read_sweep, run_queue
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.candidate import Candidate
from vramplan.planner.cli import subject as subjects
from vramplan.planner.cli.main import main
from vramplan.planner.errors import CorruptPlanError, ExitCode, RunError
from vramplan.planner.resolve import Resolved
from vramplan.planner.units import GIB


def price(subject: subjects.Subject, resolved: Resolved, **_: Any) -> Candidate:
    budget = make_budget(process_bytes=9 * GIB, total_params=subject.model.total_params)
    return make_candidate(
        model=subject.model, setup=resolved.setup, workload=resolved.workload, device=subject.device, budget=budget
    )


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(
        subjects, "look_up", lambda args: subjects.Subject(make_model_spec(), make_device(), "", True, None)
    )
    monkeypatch.setattr(subjects, "price", price)
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "llama", "--method", "lora", "--rank", "8", "--alpha", "16", "--sweep", "-o", "s"]) == 0
    return tmp_path / "s" / "sweep.json"


def test_a_sweep_varies_rank_and_scale_apart(sweep: Path) -> None:
    methods = [read_plan(path).setup.method for path in read_sweep(sweep)]
    pairs = [(method.r, method.lora_alpha) for method in methods if method.kind == "lora"]
    assert pairs == [(8, 16), (4, 8), (16, 32), (8, 8), (8, 32)]
    assert read_plan(sweep.parent / "r4-alpha8" / "plan.json").recipe.output_dir == "s/r4-alpha8/model"


def test_a_sweep_is_not_overwritten_and_needs_a_rank(sweep: Path) -> None:
    before = sweep.read_bytes()
    assert main(["plan", "llama", "--method", "lora", "--rank", "8", "--sweep", "-o", "s"]) == 2
    assert main(["plan", "llama", "--method", "full", "--sweep"]) == 2
    assert sweep.read_bytes() == before


def test_the_queue_runs_what_is_not_finished_and_one_failure_does_not_hold_up_the_rest(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def run(args: argparse.Namespace) -> ExitCode:
        seen.append(args.plan.parent.name)
        if args.plan.parent.name == "r16-alpha32":
            raise RunError("out of memory")
        return ExitCode.OK

    monkeypatch.setattr(queue, "_is_finished", lambda plan: plan.parent.name == "r8-alpha16")
    code = run_queue(argparse.Namespace(plan=sweep, yes=True), run)
    assert seen == ["r4-alpha8", "r16-alpha32", "r8-alpha8", "r8-alpha32"]
    assert code == ExitCode.FAILED


def test_a_queue_stops_when_it_is_interrupted(sweep: Path) -> None:
    assert run_queue(argparse.Namespace(plan=sweep), lambda args: ExitCode.INTERRUPTED) == ExitCode.INTERRUPTED


@pytest.mark.parametrize("content", ["{", "[]", json.dumps({"plans": ["../../elsewhere/plan.json"]})])
def test_a_damaged_sweep_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(CorruptPlanError):
        read_sweep(tmp_path / "sweep.json")
