"""What runs of one's own say of the time model: the MFU they reached, and a time scaled by how far off it was."""

from collections.abc import Sequence
from statistics import median

from vramplan.planner.throughput.values import Range, StepTime


def mfu_of_run(time: StepTime, tokens_per_second: float) -> float:
    """Model FLOPs utilisation of a run, at the tokens a second it was measured at, padding among them.

    Args:
        time: the estimate of the setup that ran; its FLOPs a token and its device's peak are taken.
    """
    return time.model_flops / time.tokens_per_step * tokens_per_second / time.peak_flops_per_second


def calibrated(time: StepTime, ratios: Sequence[float]) -> StepTime:
    """A time scaled by measured / predicted of earlier runs on the same device: their median, from their least to their
    most. Without any, the time as it is."""
    if not ratios:
        return time
    middle = median(ratios)
    typical = time.seconds.typical
    seconds = Range(low=typical * min(ratios), typical=typical * middle, high=typical * max(ratios))
    tokens = time.tokens_per_step
    rate = Range(low=tokens / seconds.high, typical=tokens / seconds.typical, high=tokens / seconds.low)
    lines = tuple(line.model_copy(update={"seconds": line.seconds * middle}) for line in time.lines)
    known = f"{len(ratios)} run{'' if len(ratios) == 1 else 's'} on this device"
    changes = {"seconds": seconds, "lines": lines, "tokens_per_second": rate, "mfu": time.mfu / middle}
    return time.model_copy(update={**changes, "basis": f"{time.basis}; scaled by {known}"})
