"""EXPLAIN and EXPLAIN ANALYZE: the estimate beside what was measured, and nothing made up where nothing was."""

import json
from pathlib import Path

import pytest

from tests.fakes import make_plan, make_report
from tests.golden_text import assert_golden
from vramplan.planner.adapters.plan_files import write_plan
from vramplan.planner.cli.explain import explanation_object, explanation_text
from vramplan.planner.cli.main import main
from vramplan.planner.errors import StalePlanError
from vramplan.planner.explain import explain
from vramplan.planner.report import MeasuredPhase

PLAN = make_plan()


def test_without_a_report_nothing_is_measured() -> None:
    explanation = explain(PLAN)
    assert [figure.name for figure in explanation.figures] == ["peak allocated", "peak reserved", "process"]
    assert {figure.actual_bytes for figure in explanation.figures} == {None}
    assert {line.actual_bytes for phase in explanation.phases for line in phase.lines} == {None}
    assert explanation.remarks == ()


def test_the_error_is_actual_minus_estimate_in_bytes_and_as_a_share_of_the_estimate() -> None:
    report = make_report(PLAN, process_bytes=PLAN.budget.process_bytes + 3 * 2**30)
    process = explain(PLAN, report).figures[2]
    # 12 GiB planned, 15 GiB used.
    assert (process.error_bytes, process.error_fraction) == (3_221_225_472, 0.25)
    assert process.above_high


def test_static_lines_are_set_beside_the_bytes_counted_on_the_modules_where_all_of_them_are_there() -> None:
    explanation = explain(PLAN, make_report(PLAN))
    measured = {
        (phase.name, line.component) for phase in explanation.phases for line in phase.lines if line.actual_bytes
    }
    assert measured == {
        ("forward", "weights"), ("forward", "adapter"),
        ("backward", "weights"), ("backward", "adapter"),
        ("optimizer_step", "weights"), ("optimizer_step", "adapter"),
        ("optimizer_step", "gradients"), ("optimizer_step", "optimizer"),
    }  # fmt: skip


def test_a_phase_that_was_not_measured_stays_unknown_and_one_nobody_planned_is_shown() -> None:
    seen = (MeasuredPhase(name="forward", tracked_bytes=5), MeasuredPhase(name="save", allocated_bytes=7))
    by_name = {phase.name: phase for phase in explain(PLAN, make_report(PLAN, phases=seen)).phases}
    assert by_name["backward"].actual_bytes is None
    assert (by_name["forward"].actual_bytes, by_name["forward"].tracked_bytes) == (None, 5)
    assert (by_name["save"].estimate_bytes, by_name["save"].actual_bytes, by_name["save"].error_bytes) == (
        None,
        7,
        None,
    )


def test_the_trackers_peak_stands_beside_the_independent_measurement() -> None:
    seen = (MeasuredPhase(name="backward", allocated_bytes=100, tracked_bytes=90),)
    report = make_report(PLAN, phases=seen, peak_allocated_bytes=100)
    peak = explain(PLAN, report).figures[0]
    assert (peak.actual_bytes, peak.tracked_bytes) == (100, 90)
    assert "tracker" in explanation_text(explain(PLAN, report), width=100)
    assert "tracker" not in explanation_text(explain(PLAN, make_report(PLAN)), width=100)


def test_the_report_of_another_plan_is_refused() -> None:
    with pytest.raises(StalePlanError, match="the report is of plan aaaaaaaaaaaa"):
        explain(PLAN, make_report(PLAN, plan_fingerprint="a" * 64))


def test_failure_other_packages_and_lines_without_a_plan_are_remarked() -> None:
    report = make_report(
        PLAN,
        status="failed",
        steps=3,
        failure="CUDA out of memory",
        packages={"torch": "2.14.0"},
        static={"buffers": 4096},
    )
    remarks = explain(PLAN, report).remarks
    assert "the run failed after 3 steps: CUDA out of memory" in remarks
    assert "priced for torch 2.13.0, run with torch 2.14.0" in remarks
    assert "buffers was counted at 4096 bytes; the plan has no line" in remarks


@pytest.mark.parametrize("name", ["explain", "explain_analyze"])
def test_the_text_is_the_golden_one(name: str) -> None:
    report = make_report(PLAN) if name == "explain_analyze" else None
    text = explanation_text(explain(PLAN, report), width=100)
    assert_golden(f"{name}.txt", text.replace(PLAN.fingerprint[:12], "<fingerprint>"))


def test_a_name_cannot_smuggle_a_terminal_escape_into_the_text() -> None:
    evil = PLAN.model_copy(update={"model": PLAN.model.model_copy(update={"repo_id": "a\x1b]0;x\x07b\u202e"})})
    text = explanation_text(explain(evil), width=100)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "\\x1b]0;x\\x07b" in text


def test_the_command_reads_the_report_beside_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    write_plan(PLAN, path)
    assert main(["explain", str(path)]) == 0
    assert capsys.readouterr().out.startswith("EXPLAIN  fake/llama-2-layers")
    (tmp_path / "report.json").write_text(make_report(PLAN).model_dump_json())
    assert main(["explain", str(path), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    # 12 GiB of process, 2 % above: 257698038 bytes (0.02 x 12884901888, rounded).
    assert content["figures"][2]["error_bytes"] == 257_698_038
    assert content["phases"][0]["lines"][0]["component"] == "weights"
    del content["speed"]  # tests/unit/test_explain_ranks.py
    assert content == json.loads(json.dumps(explanation_object(explain(PLAN, make_report(PLAN)))))


def test_a_missing_or_edited_plan_ends_with_its_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert main(["explain", str(path)]) == 2
    write_plan(PLAN, path)
    path.write_text(path.read_text().replace("lora", "loro"))
    assert main(["explain", str(path)]) == 5
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "error:" in captured.err
    assert "Traceback" not in captured.err
