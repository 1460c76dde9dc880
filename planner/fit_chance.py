"""How likely a setup is to fit, from how far measured runs were from their price."""

from vramplan.planner.candidate import Candidate
from vramplan.planner.measured_errors import RATIOS


def fit_chance(candidate: Candidate) -> float | None:
    """P(fits): the share of measured runs whose error, made here, would leave the process within what is available.

    By the rule of succession (Laplace, 1814): (k + 1) / (n + 2) for k of n, so that no number of runs makes it certain.
    The runs are other people's, of several stacks, and not independent: read it as an order of magnitude.

    None without a device or a verdict, and on a processor, which those runs say nothing about.
    """
    device = candidate.device
    if device is None or device.kind == "cpu" or candidate.available_bytes is None or candidate.verdict is None:
        return None
    process = candidate.budget.process_bytes
    enough = sum(ratio * process <= candidate.available_bytes for ratio in RATIOS)
    return (enough + 1) / (len(RATIOS) + 2)
