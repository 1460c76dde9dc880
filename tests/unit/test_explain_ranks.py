"""What several ranks held, and how fast they were, beside the plan: from one report, or from the reports that an
exported script's processes write."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import make_report
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.plan_files import freeze_plan, read_reports, write_plan
from vramplan.planner.cli.main import main
from vramplan.planner.estimate import estimate
from vramplan.planner.explain import explain
from vramplan.planner.explain_ranks import of_report
from vramplan.planner.plan import Plan
from vramplan.planner.report import MeasuredRank, RunReport
from vramplan.planner.resolve import resolve
from vramplan.planner.units import MIB

LLAMA_PARAMS = 8_030_261_248


@pytest.fixture(scope="module")
def plan() -> Plan:
    """Llama-3.1-8B in full over four A100."""
    spec = resolve_model("meta-llama/Llama-3.1-8B", online=False)
    device = resolve_device("NVIDIA A100 SXM4 80 GB", memory_bytes=None, reserve_bytes=0)[0]
    answer = resolve({"method": "full", "gpus": 4, "sequence_length": 512}, spec, device)
    return freeze_plan(estimate(spec, answer.workload, answer.setup, device), spec, answer.recipe)


def held(plan: Plan, rank: int, more_bytes: int) -> MeasuredRank:
    peak = plan.budget.peak_allocated_bytes + more_bytes
    return MeasuredRank(rank=rank, peak_allocated_bytes=peak, static={"weights": LLAMA_PARAMS})


def test_each_rank_stands_beside_the_budget_and_the_fullest_is_named(plan: Plan) -> None:
    ranks = tuple(held(plan, rank, (5 - rank) * MIB) for rank in range(3))
    explanation = explain(plan, make_report(plan, ranks=ranks))
    assert [rank.allocated.error_bytes for rank in explanation.ranks] == [5 * MIB, 4 * MIB, 3 * MIB]
    assert explanation.ranks[0].static.actual_bytes == LLAMA_PARAMS
    remarks = " ".join(explanation.remarks)
    assert "3 of 4 ranks told what they held" in remarks
    assert "rank 0 held most, 2.00 MiB more than the one that held least" in remarks


def written(plan: Plan, folder: Path, **changes: dict[str, Any]) -> Path:
    """Reports as four processes of an exported script write them."""
    for rank in range(4):
        report = make_report(plan, peak_allocated_bytes=2**34 + rank, environment={"rank": str(rank)})
        name = "report.json" if rank == 0 else f"report-rank{rank}.json"
        content = json.loads(report.model_dump_json()) | changes.get(f"rank{rank}", {})
        (folder / name).write_text(json.dumps(content))
    return folder / "report.json"


def test_reports_of_an_exported_scripts_processes_are_read_together(plan: Plan, tmp_path: Path) -> None:
    found = read_reports(written(plan, tmp_path))
    assert [(rank.rank, rank.peak_allocated_bytes) for rank in found.ranks] == [(n, 2**34 + n) for n in range(4)]
    assert [rank.rank for rank in explain(plan, found).ranks] == [0, 1, 2, 3]


def test_another_runs_reports_beside_are_no_ranks_of_this_one(plan: Plan, tmp_path: Path) -> None:
    found = read_reports(written(plan, tmp_path, rank2={"plan_fingerprint": "0" * 64}))
    assert [rank.rank for rank in found.ranks] == [0, 1, 3]


def test_one_rank_of_them_can_be_read_alone(plan: Plan, tmp_path: Path) -> None:
    written(plan, tmp_path)
    assert read_reports(tmp_path / "report-rank3.json").ranks == ()


def test_the_command_shows_a_row_for_each_rank_and_its_speed(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_plan(plan, tmp_path / "plan.json")
    report = written(plan, tmp_path, rank0={"tokens_per_second": 4 * 2500.0})
    assert main(["explain", str(tmp_path / "plan.json"), str(report)]) == 0
    text = capsys.readouterr().out
    rows = [line.split() for line in text.splitlines() if line[:5].strip() in ("0", "1", "2", "3", "rank", "planned")]
    assert len([row for row in rows if row and row[0] in "0123"]) == 4
    assert "speed: 10,000 tokens/s" in text
    assert main(["explain", "--json", str(tmp_path / "plan.json"), str(report)]) == 0
    speed = json.loads(capsys.readouterr().out)["speed"]
    # 6 FLOPs a parameter and token, the input embedding apart, of one GPU's 312 TFLOP/s; attention and the logits that
    # the fused loss makes twice are some 3 % more.
    by_hand = 6 * (LLAMA_PARAMS - 128_256 * 4096) * 2500 / 312e12
    assert speed["mfu"] == pytest.approx(by_hand, rel=0.05)


def test_a_report_keeps_its_own_figures_as_a_row(plan: Plan) -> None:
    report = RunReport.model_validate(make_report(plan).model_dump() | {"process_bytes": 7})
    assert of_report(report, 3) == MeasuredRank(
        rank=3,
        process_bytes=7,
        static=report.static,
        phases=report.phases,
        measured_shape=report.measured_shape,
        peak_allocated_bytes=report.peak_allocated_bytes,
        peak_reserved_bytes=report.peak_reserved_bytes,
    )
