"""A micro step on real tensors of this CPU, tracked as a trace is: what programs are held against."""

import contextlib
from typing import Any

from torch import nn

from vramplan.planner.trace import loss, quantize
from vramplan.planner.trace.build import measure
from vramplan.planner.trace.record import Case, build_model, run_tracked
from vramplan.planner.trace.tracker import Tracker


def real_model(case: Case) -> nn.Module:
    """The model of a case, every parameter a small random number."""
    return build_model(case, real=True)


def real_step(model: nn.Module, case: Case) -> tuple[dict[Any, int], int]:
    """Peak bytes per phase above the static tensors, and what is left at the end."""
    tracker = Tracker(replace=quantize.opened_kernels() if case.mode.quant else {})
    with contextlib.ExitStack() as stack:
        if case.mode.loss == "fused":
            stack.enter_context(loss.fused_loss(case.mode.route, tracker, as_macro=False))
        run_tracked(model, case, tracker, real=True)
    return measure(tracker, 1)
