"""Calibration: reports move the priors and never make a range narrower than what was seen."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import NOW, VERSIONS, make_budget, make_candidate, make_device, make_model_spec, make_plan, make_report
from vramplan.executor.calibrating import observe_report
from vramplan.planner.adapters import calibration_files
from vramplan.planner.adapters.calibration_files import find_figures, forget, read_observations, remember
from vramplan.planner.adapters.devices import resolve_device
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.calibration import ENOUGH, Observation, changes, comparable, fold, merged, observe
from vramplan.planner.estimate import estimate
from vramplan.planner.memory.outside import PRIOR
from vramplan.planner.methods import Lora
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.training_setup import Precision, TrainingSetup
from vramplan.planner.units import GIB, MIB
from vramplan.planner.workload import Workload

CARD = "NVIDIA GeForce RTX 4090"
MODEL = resolve_model("HuggingFaceTB/SmolLM2-135M", online=False)
# its memory program ships, so that these tests need no torch
SETUP = TrainingSetup(method=Lora(), precision=Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32"))


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_files, "calibration_folder", lambda: tmp_path / "calibration")
    monkeypatch.setattr(calibration_files, "installed_torch", lambda: "2.13.0")


def seen(number: int = 0, **changes: object) -> Observation:
    values = {"plan_fingerprint": f"{number:064}", "device": CARD, "torch": "2.13.0", "what": "a model, lora"}
    return Observation.model_validate({**values, "measured_at": NOW + timedelta(hours=number), **changes})


def as_measured(plan: Plan, **changes: object) -> RunReport:
    shape = {"sequence_length": plan.workload.sequence_length, "micro_batch_size": plan.setup.micro_batch_size}
    return make_report(
        plan, environment={"gpu": CARD}, measured_shape=shape, setup=plan.setup, **{"packages": VERSIONS, **changes}
    )


def test_a_rank_of_several_teaches_nothing_about_one_device() -> None:
    alone = make_plan()
    plan = alone.model_copy(update={"setup": alone.setup.model_copy(update={"gpus": 2, "sharding": "ddp"})})
    assert observe(plan, as_measured(plan, outside_bytes=2 * GIB)) is None


def test_a_report_tells_by_how_much_each_figure_was_off() -> None:
    """The made-up plan peaks at 11.25 GiB, a quarter of it inside the step; the report lies 2 % above each of its
    phases and says 600 MiB of context."""
    plan = make_plan()
    found = observe(plan, as_measured(plan, outside_bytes=600 * MIB))
    assert found is not None
    peak = 11.25 * GIB
    inside = peak * (1 - 1 / 2 - 1 / 100 - 1 / 100 - 1 / 50)
    assert found.dynamic_excess == pytest.approx(0.02 * peak / inside, rel=1e-3)
    assert found.context_bytes == 600 * MIB
    assert (found.device, found.torch) == (CARD, "2.13.0")


@pytest.mark.parametrize(
    "changes",
    [
        {"measured_shape": {"sequence_length": 1000, "micro_batch_size": 1}},
        {"setup": TrainingSetup(method=Lora(), micro_batch_size=1, gradient_checkpointing=False)},
        {"measured_shape": None},
    ],
)
def test_a_smaller_batch_or_another_setup_tells_nothing_about_peaks(changes: dict[str, object]) -> None:
    plan = make_plan()
    report = as_measured(plan, outside_bytes=600 * MIB).model_copy(update=changes)
    found = observe(plan, report)
    assert found is not None
    assert (found.dynamic_excess, found.context_bytes) == (None, 600 * MIB)
    assert observe(plan, report.model_copy(update={"outside_bytes": None})) is None


def test_a_cpus_report_and_another_plans_tell_nothing() -> None:
    plan = make_plan()
    assert observe(plan, as_measured(plan).model_copy(update={"environment": {"device": "cpu"}})) is None
    assert observe(plan, as_measured(plan).model_copy(update={"plan_fingerprint": "0" * 64})) is None


def test_few_runs_can_only_widen_and_nineteen_may_narrow() -> None:
    few = [seen(number, dynamic_excess=0.01, context_bytes=500 * MIB) for number in range(ENOUGH - 1)]
    figures = fold(few)
    assert figures.dynamic_fraction == PRIOR.dynamic_fraction == 0.05
    assert (figures.context_bytes, figures.high_context_bytes) == (500 * MIB, PRIOR.high_context_bytes)
    enough = fold([*few, seen(ENOUGH, dynamic_excess=0.02, context_bytes=520 * MIB)])
    assert enough.dynamic_fraction == 0.02
    assert (enough.context_bytes, enough.high_context_bytes) == (500 * MIB, 520 * MIB)
    one_worse = fold([seen(dynamic_excess=0.11, fragmentation_excess=0.04, context_bytes=900 * MIB)])
    assert (one_worse.dynamic_fraction, one_worse.fragmentation_fraction) == (0.11, 0.04)
    assert one_worse.high_context_bytes == 900 * MIB


@given(st.lists(st.tuples(st.floats(-1, 3), st.floats(-0.5, 0.5), st.integers(0, 2 * GIB)), min_size=1, max_size=30))
def test_no_range_is_narrower_than_its_evidence(runs: list[tuple[float, float, int]]) -> None:
    observations = [
        seen(number, dynamic_excess=dynamic, fragmentation_excess=segments, context_bytes=context)
        for number, (dynamic, segments, context) in enumerate(runs)
    ]
    figures = fold(observations)
    for dynamic, segments, context in runs:
        assert figures.dynamic_fraction >= dynamic
        assert figures.fragmentation_fraction >= segments
        assert figures.high_context_bytes >= context
    assert figures.context_bytes <= figures.high_context_bytes
    assert min(context for _, _, context in runs) <= figures.context_bytes


def test_a_plan_counts_once_with_the_worst_of_its_runs() -> None:
    worse = merged(seen(dynamic_excess=0.07, context_bytes=10), seen(dynamic_excess=0.02, context_bytes=30))
    assert (worse.dynamic_excess, worse.context_bytes) == (0.07, 30)
    assert remember([seen(dynamic_excess=0.07)]) == remember([seen(dynamic_excess=0.02)]) == 1
    assert read_observations(CARD)[0].dynamic_excess == 0.07


def test_another_card_and_another_torch_are_left_out() -> None:
    mixed = [seen(1), seen(2, torch="2.11.0"), seen(3, device="NVIDIA A10")]
    assert comparable(mixed, CARD, "2.13.0") == (mixed[0],)
    assert comparable(mixed, CARD, None) == (mixed[1],)
    assert comparable(mixed, "NVIDIA T4", None) == ()


def test_an_estimate_on_the_card_carries_the_evidence_and_one_elsewhere_does_not() -> None:
    model, setup, workload = MODEL, SETUP, Workload(sequence_length=1024)
    card = make_device(name=CARD)
    before = estimate(model, workload, setup, card)
    remember([seen(dynamic_excess=0.5, fragmentation_excess=0.1, context_bytes=1000 * MIB)])
    after = estimate(model, workload, setup, card)
    assert after.budget.process_bytes - before.budget.process_bytes == 1000 * MIB - PRIOR.context_bytes
    assert after.budget.high_process_bytes > before.budget.high_process_bytes
    context = next(line for line in after.budget.process_lines if line.component == "context")
    assert "1 plan run on NVIDIA GeForce RTX 4090 with torch 2.13.0" in str(context.source)
    assert "calibrated by 1 plan" in after.provenance.basis
    assert not any("unmeasured on this GPU" in warning for warning in after.warnings)
    assert estimate(model, workload, setup, make_device(name="NVIDIA A10")).budget == before.budget
    forget(CARD)
    assert estimate(model, workload, setup, card).budget == before.budget


def test_pricing_with_the_evidence_covers_the_run_it_came_from() -> None:
    """Both where a step is most of the peak and where it is next to nothing beside the weights."""
    model, card = MODEL, make_device(name=CARD)
    for length in (2, 1024):
        workload, setup = Workload(sequence_length=length), SETUP
        candidate = estimate(model, workload, setup, card)
        plan = make_plan(candidate=candidate, model=model)
        report = as_measured(plan, error_fraction=0.3)
        highest = max(phase.allocated_bytes or 0 for phase in report.phases if phase.name != "load")
        reserved = report.phases[0].model_copy(update={"name": "backward", "allocated_bytes": highest,
                                                       "reserved_bytes": int(1.2 * highest)})  # fmt: skip
        report = report.model_copy(update={"phases": (reserved,)})
        found = observe(plan, report)
        assert found is not None
        remember([found])
        calibrated = estimate(model, workload, setup, card).budget
        peak = next(phase for phase in calibrated.phases if phase.name == calibrated.peak_phase)
        assert sum(line.high_bytes for line in peak.lines) >= highest
        assert calibrated.high_reserved_bytes >= int(1.2 * highest)
        forget(CARD)


def test_a_damaged_file_counts_as_none_and_is_replaced() -> None:
    remember([seen(dynamic_excess=0.5)])
    (path,) = calibration_files.calibration_folder().iterdir()
    path.write_text("{")
    assert find_figures(make_device(name=CARD)) == PRIOR
    remember([seen(context_bytes=500 * MIB)])
    assert len(json.loads(path.read_text())["observations"]) == 1


def test_what_changed_is_said_in_words() -> None:
    said = {change.what: change for change in changes(fold([seen(context_bytes=500 * MIB)]))}
    assert said["context"].prior == "426.00 MiB, up to 700.00 MiB"
    assert said["context"].now == "500.00 MiB, up to 700.00 MiB"
    assert "1 plan run on" in said["context"].evidence
    assert said["what lives inside a step"].now == said["what lives inside a step"].prior


def test_the_made_up_candidate_is_what_this_module_takes_it_for() -> None:
    assert make_candidate().budget == make_budget(total_params=make_model_spec().total_params)


def test_a_run_that_took_longer_makes_later_times_longer_and_leaves_the_prediction_it_is_measured_by() -> None:
    """Twice the time model's seconds, seen once: the next answer is twice as long, and a second run is compared with
    the model alone again."""
    card = resolve_device(CARD, memory_bytes=None, reserve_bytes=0)[0]
    plan = make_plan(candidate=estimate(MODEL, Workload(sequence_length=1024), SETUP, card), model=MODEL)
    expected = estimate(MODEL, plan.workload, SETUP, card).time
    assert expected is not None
    for _ in range(2):
        report = as_measured(plan, outside_bytes=600 * MIB, tokens_per_second=expected.tokens_per_second.typical / 2)
        found = observe_report(plan, report)
        assert found is not None
        assert found.step_time_ratio == pytest.approx(2.0)
        remember([found])
        after = estimate(MODEL, plan.workload, SETUP, card).time
        assert after is not None
        assert after.seconds.typical == pytest.approx(2 * expected.seconds.typical)
        assert "scaled by 1 run on this device" in after.basis
