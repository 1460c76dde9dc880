"""Fit the time model's few constants: the smallest mean |log(predicted / measured)|, every source weighing the same.

A search along one constant at a time, in ever smaller steps: the constants are few and the mean is cheap, so nothing
more is needed, and anyone can follow it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from math import log
from typing import Any, Protocol

from vramplan.planner.throughput.constants import Constants

STEPS = (1.3, 1.1, 1.03, 1.01)
ROUNDS = 40
BOUNDS = {
    "matmul_ceiling": (0.5, 0.98),
    "attention_fraction": (0.05, 0.9),
    "moved_per_written": (1.0, 4.0),
    "launch_seconds": (2e-6, 3e-5),
    "unhidden": (0.02, 1.0),
}
JOULE_BOUNDS = (2e11, 2e12)
RANGE_SHARE = 0.05
"""Of a source's fitted rows, left out on either side of the range."""
UNMEASURED = 1.25
"""How much wider the range is at either end on architectures nobody measured: a stated margin, not a measured one."""
START = Constants(
    matmul_ceiling=0.9,
    flops_per_joule={},
    other_flops_per_joule=6e11,
    attention_fraction=0.4,
    memory_fraction=0.85,
    moved_per_written=2.0,
    dequantized_moved=1.5,
    launch_seconds=1e-5,
    unhidden=0.3,
    link_fraction=0.7,
    low=1.0,
    high=1.0,
    unmeasured_low=1.0,
    unmeasured_high=1.0,
    basis="",
)
"""Where the search begins, and what is stated and not fitted: streams reach 85 % of a memory's rate, collectives 70 %
of a link's, and a weight of two bytes is made whole from half a byte by kernels that reach less than a stream."""


class Fittable(Protocol):
    """A counted case."""

    case: dict[str, Any]
    measured_seconds: float
    rates: Any

    def seconds(self, constants: Constants) -> float: ...


def fit(counted: Sequence[Fittable], start: Constants | None = None) -> str:
    """The fitted module's text."""
    start = start or START
    architectures = sorted({one.rates.architecture for one in counted})
    joules = {name: start.flops_per_joule.get(name, start.other_flops_per_joule) for name in architectures}
    best = replace(start, flops_per_joule=joules)
    for step in STEPS:
        for _ in range(ROUNDS):
            moved = _sweep(counted, best, step)
            if moved == best:
                break
            best = moved
    low, high = _ends(counted, best)
    best = replace(
        best,
        other_flops_per_joule=max(best.flops_per_joule.values()),
        low=low,
        high=high,
        unmeasured_low=low / UNMEASURED,
        unmeasured_high=high * UNMEASURED,
    )
    return _module(best, counted)


def _ends(counted: Sequence[Fittable], constants: Constants) -> tuple[float, float]:
    """The range as shares of the typical time: of each source what holds all but a few rows, then the widest."""
    by_source: dict[str, list[float]] = {}
    for one in counted:
        ratio = one.measured_seconds / one.seconds(constants)
        by_source.setdefault(one.case["source"]["repository"], []).append(ratio)
    ordered = [sorted(ratios) for ratios in by_source.values()]
    cut = [round(RANGE_SHARE * len(ratios)) for ratios in ordered]
    lows = [ratios[skipped] for ratios, skipped in zip(ordered, cut, strict=True)]
    highs = [ratios[-1 - skipped] for ratios, skipped in zip(ordered, cut, strict=True)]
    return min(0.9, *lows), max(1.1, *highs)


def loss(counted: Sequence[Fittable], constants: Constants) -> float:
    """Mean distance in logarithms, every source weighing the same."""
    sizes = Counter(one.case["source"]["repository"] for one in counted)
    total = 0.0
    for one in counted:
        total += abs(log(one.seconds(constants) / one.measured_seconds)) / sizes[one.case["source"]["repository"]]
    return total / len(sizes)


def _sweep(counted: Sequence[Fittable], constants: Constants, step: float) -> Constants:
    """Each constant moved up or down by a step, where that is better."""
    best, lowest = constants, loss(counted, constants)
    for moves in _moves(constants):
        for factor in (step, 1 / step):
            tried = moves(best, factor)
            found = loss(counted, tried)
            if found < lowest - 1e-9:
                best, lowest = tried, found
    return best


def _moves(constants: Constants) -> list[Callable[[Constants, float], Constants]]:
    def of_field(name: str, low: float, high: float) -> Callable[[Constants, float], Constants]:
        def move(now: Constants, factor: float) -> Constants:
            moved: dict[str, Any] = {name: min(high, max(low, getattr(now, name) * factor))}
            return replace(now, **moved)

        return move

    def of_joule(architecture: str) -> Callable[[Constants, float], Constants]:
        def move(now: Constants, factor: float) -> Constants:
            low, high = JOULE_BOUNDS
            paid = min(high, max(low, now.flops_per_joule[architecture] * factor))
            return replace(now, flops_per_joule={**now.flops_per_joule, architecture: paid})

        return move

    fields = [of_field(name, *bounds) for name, bounds in BOUNDS.items()]
    return fields + [of_joule(name) for name in constants.flops_per_joule]


def _module(constants: Constants, counted: Sequence[Fittable]) -> str:
    """``fitted.py``."""
    named = ", ".join(sorted({one.case["source"]["repository"] for one in counted}))
    basis = f"fitted on {len(counted)} published runs ({named}), {datetime.now(UTC):%Y-%m-%d}; none ours"
    lines = []
    for name, value in vars(constants).items():
        if name == "basis":
            value = basis
        elif isinstance(value, dict):
            value = {key: float(f"{paid:.3g}") for key, paid in value.items()}
        else:
            value = float(f"{value:.3g}")
        lines.append(f"    {name}={json_like(value)},\n")
    head = '"""Written by ``python benchmarks/throughput.py fit``; what a figure means: ``constants``."""\n\n'
    imports = "from vramplan.planner.throughput.constants import Constants\n\n"
    return f"{head}{imports}CONSTANTS = Constants(\n{''.join(lines)})\n"


def json_like(value: Any) -> str:
    """Python source in double quotes.

    >>> json_like({"Ada": 0.5}), json_like("a")
    ('{"Ada": 0.5}', '"a"')
    """
    if isinstance(value, dict):
        return "{" + ", ".join(f'"{key}": {number}' for key, number in value.items()) + "}"
    return f'"{value}"' if isinstance(value, str) else repr(value)
