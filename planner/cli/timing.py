"""How long a step and a run take, and what the run costs, in words."""

from vramplan.planner.candidate import Candidate
from vramplan.planner.cli.render import joined, paragraph, table
from vramplan.planner.throughput.values import Range, RunCost, StepTime


def cost_of(candidate: Candidate, *, usd_per_hour: float | None = None, max_steps: int | None = None) -> RunCost:
    """What a run of a candidate takes, at the price given or its device's own."""
    from vramplan.planner.adapters.profiles import profile_of
    from vramplan.planner.throughput.cost import run_cost

    device = candidate.device
    profile = profile_of(device)
    return run_cost(
        candidate.time,
        candidate.workload,
        candidate.setup,
        profile,
        usd_per_hour=usd_per_hour,
        max_steps=max_steps,
    )


def time_text(candidate: Candidate, cost: RunCost, *, width: int) -> str:
    """The step's time by phase, then the run's hours, energy and money."""
    time = candidate.time
    if time is None:
        return paragraph(candidate.time_unknown_because or "not asked for", width=width, first="time     unknown: ")
    rows = [["phase", "seconds", "because"]]
    rows += [[line.phase.replace("_", " "), figure(line.seconds), line.because] for line in time.lines]
    return "\n".join(
        [
            paragraph(step_words(time), width=width, first="time     "),
            table(rows, "<><", width=width),
            paragraph(run_words(cost, candidate.setup.world_size), width=width, first="run      "),
            paragraph(f"times are {time.basis}", width=width, first="basis: "),
        ]
    )


def step_words(time: StepTime) -> str:
    """One optimizer step: seconds with their range, tokens a second, MFU."""
    seconds = time.seconds
    return joined(
        (
            f"{figure(seconds.typical)} s a step, {figure(seconds.low)} to {figure(seconds.high)}",
            f"{time.tokens_per_second.typical:,.0f} tokens/s",
            f"MFU {time.mfu:.0%}",
        )
    )


def run_words(cost: RunCost, gpus: int = 1) -> str:
    """The whole run on so many devices, and what is missing."""
    parts = [] if cost.steps is None else [f"{cost.steps:,} steps"]
    if cost.hours is not None:
        parts.append(_range(cost.hours, "hours"))
    if cost.kilowatt_hours is not None:
        parts.append(_range(cost.kilowatt_hours, f"kWh for {'the board' if gpus == 1 else f'{gpus} boards'}"))
    if cost.usd is not None:
        hour = "an hour" if gpus == 1 else f"an hour of each of {gpus} GPUs"
        parts.append(f"{_range(cost.usd, 'USD')} at {cost.usd_per_hour:g} {hour} ({cost.price_basis})")
    return joined((*parts, *(f"unknown: {reason}" for reason in cost.unknown_because)))


def _range(found: Range, unit: str) -> str:
    return f"{figure(found.typical)} {unit} ({figure(found.low)} to {figure(found.high)})"


def seconds_words(time: StepTime) -> str:
    """A step's seconds as a range of two digits, for a column."""
    low, high = time.seconds.low, time.seconds.high
    return f"{low:,.0f}-{high:,.0f}" if low >= 100 else f"{low:.2g}-{high:.2g}"


def figure(value: float) -> str:
    """Three digits.

    >>> figure(0.01234), figure(3.456), figure(1234.5)
    ('0.0123', '3.46', '1,234')
    """
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
