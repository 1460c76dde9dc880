"""How fast a run was beside what was expected: tokens a second, and the share of the devices' peak (MFU)."""

from vramplan.planner.cli.timing import figure
from vramplan.planner.errors import VramplanError
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.throughput.calibration import mfu_of_run
from vramplan.planner.throughput.values import Range
from vramplan.planner.values import Value


class Achieved(Value):
    """A run's speed; of several ranks together, MFU of each."""

    tokens_per_second: float
    """Padding apart."""
    expected_tokens_per_second: Range
    mfu: float
    expected_mfu: float


def achieved(plan: Plan, report: RunReport | None) -> Achieved | None:
    """None where nothing was timed, or the device's rates or the model are not known here."""
    if report is None or report.tokens_per_second is None or plan.device is None:
        return None
    from vramplan.planner.adapters.models import resolve_model
    from vramplan.planner.estimate import estimate

    setup = report.setup or plan.setup
    try:
        model = resolve_model(plan.model.path or plan.model.repo_id, revision=plan.model.revision, online=False)
        time = estimate(model, plan.workload, setup, plan.device, with_tensors=False).time
    except VramplanError:
        return None
    if time is None:
        return None
    return Achieved(
        tokens_per_second=report.tokens_per_second,
        expected_tokens_per_second=time.tokens_per_second,
        mfu=mfu_of_run(time, report.tokens_per_second),
        expected_mfu=time.mfu,
    )


def achieved_words(found: Achieved) -> str:
    """One line: what was reached, and what was expected."""
    expected = found.expected_tokens_per_second
    return (
        f"{found.tokens_per_second:,.0f} tokens/s, {figure(expected.low)} to {figure(expected.high)} expected; "
        f"MFU {found.mfu:.0%}, {found.expected_mfu:.0%} expected"
    ).replace("%", " %")
