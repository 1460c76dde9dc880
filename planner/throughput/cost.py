"""What a run takes: optimizer steps, hours, energy of the board, money.

steps   = ceil(examples x epochs / sequences per step)
kWh     = hours x GPUs x board power x utilisation; the hosts' own power is not counted
money   = hours x GPUs x the price of an hour of one
"""

import math

from vramplan.planner.device import DeviceProfile
from vramplan.planner.throughput.values import Range, RunCost, StepTime
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

UTILISATION = (0.6, 0.85, 1.0)
"""Share of the board's power limit that training draws: low, typical, high. Stated, not measured: compute-bound runs
draw nearly the limit, small batches well below it."""
SECONDS_PER_HOUR = 3600.0


def run_cost(
    time: StepTime | None,
    workload: Workload,
    setup: TrainingSetup,
    profile: DeviceProfile | None,
    *,
    usd_per_hour: float | None = None,
    max_steps: int | None = None,
) -> RunCost:
    """What a run of a workload takes on the devices of its setup.

    Args:
        time: of one optimizer step whose rows are the longest; None: not known.
        usd_per_hour: ``--price``, of one device; the profile's dated price without.
        max_steps: where the run stops earlier.
    """
    missing = []
    price, price_basis = _price(profile, usd_per_hour)
    steps = _steps(workload, max_steps, packing=setup.packing)
    if steps is None:
        missing.append("how many rows there are: --data FILE")
    if time is None or steps is None:
        return RunCost(steps=steps, usd_per_hour=price, price_basis=price_basis, unknown_because=tuple(missing))
    share = _mean_length(workload, setup.micro_batch_size) / workload.sequence_length
    hours = time.seconds.times(steps * share / SECONDS_PER_HOUR)
    if price is None:
        missing.append("the price of an hour: --price")
    watts = profile.tdp_watts if profile is not None else None
    if watts is None:
        missing.append("the board's power")
    return RunCost(
        steps=steps,
        hours=hours,
        kilowatt_hours=None if watts is None else _energy(hours, watts * setup.world_size),
        usd=None if price is None else hours.times(price * setup.world_size),
        usd_per_hour=price,
        price_basis=price_basis,
        unknown_because=tuple(missing),
    )


def _steps(workload: Workload, max_steps: int | None, *, packing: bool) -> int | None:
    rows: float | None = workload.num_examples
    if rows is not None and packing:
        lengths = workload.length_quantiles
        rows = rows * sum(lengths) / len(lengths) / workload.sequence_length if lengths else None
    if rows is None:
        return max_steps
    whole = max(1, math.ceil(rows * workload.num_train_epochs / workload.sequences_per_step))
    return whole if max_steps is None else min(whole, max_steps)


def _mean_length(workload: Workload, micro_batch_size: int) -> float:
    """Tokens of a row on average, each micro batch padded to its longest; all alike where none were measured.

    The longest of n rows stays below a length with the n-th power of the chance that one row does.
    """
    lengths = workload.length_quantiles
    if not lengths:
        return workload.sequence_length
    last = len(lengths) - 1
    shares = [(place + 0.5) / len(lengths) for place in range(len(lengths))]
    longest = [lengths[round(last * math.pow(share, 1 / micro_batch_size))] for share in shares]
    return sum(longest) / len(longest)


def _price(profile: DeviceProfile | None, usd_per_hour: float | None) -> tuple[float | None, str | None]:
    if usd_per_hour is not None:
        return usd_per_hour, "--price"
    if profile is None or profile.usd_per_hour is None:
        return None, None
    return profile.usd_per_hour, f"{profile.name} rented on demand, {profile.usd_per_hour_on or 'undated'}"


def _energy(hours: Range, watts: int) -> Range:
    low, typical, high = UTILISATION
    return Range(
        low=hours.low * watts * low / 1000,
        typical=hours.typical * watts * typical / 1000,
        high=hours.high * watts * high / 1000,
    )
