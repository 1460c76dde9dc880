"""A run and its events in words."""

from rich.text import Text

from vramplan.executor.events import (
    Evaluated,
    Event,
    Failed,
    Finished,
    Measured,
    OutOfMemory,
    Paused,
    Progress,
    Resumed,
    Rung,
    Saved,
    Started,
    Step,
    Verified,
    Warned,
)
from vramplan.executor.progress import describe
from vramplan.planner.cli.render import plain
from vramplan.planner.units import format_bytes
from vramplan.tui.state import RunState, RunStatus
from vramplan.tui.theme import GREEN, GREY, SKY, VERMILLION, YELLOW

STATUS: dict[RunStatus, tuple[str, str]] = {
    "running": ("running", SKY),
    "pausing": ("pausing", YELLOW),
    "paused": ("paused", YELLOW),
    "stopping": ("stopping", YELLOW),
    "done": ("done", GREEN),
    "failed": ("failed", VERMILLION),
    "interrupted": ("stopped", GREY),
}


def clock(seconds: float) -> str:
    """A duration as h:mm:ss or m:ss.

    >>> clock(61.4), clock(3723)
    ('1:01', '1:02:03')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def describe_run(run: RunState) -> Text:
    """``running  step 12 of 60 · loss 2.3107 · 1500 tokens/s · 0:42 left``"""
    word, colour = STATUS[run.status]
    text = Text(word, f"bold {colour}")
    step = run.step
    if step is None:
        return text.append("  starting" if run.under_way else "")
    parts = [f"step {step.step} of {step.max_steps}"]
    if step.loss is not None:
        parts.append(f"loss {step.loss:.4f}")
    if step.tokens_per_second is not None:
        parts.append(f"{step.tokens_per_second:.0f} tokens/s")
    if step.eta_seconds is not None and run.under_way:
        parts.append(f"{clock(step.eta_seconds)} left")
    return text.append("  " + " · ".join(parts))


def describe_event(event: Event) -> str:
    """One line of the log."""
    match event:
        case Started():
            return f"started as process {event.pid}"
        case Progress():
            done = "" if event.fraction is None else f" {event.fraction:.0%}"
            return f"{event.what}{done}"
        case Measured():
            return f"measured {event.phase.replace('_', ' ')}: {_measured(event)}"
        case Evaluated():
            return f"held-out loss {event.eval_loss:.4f} at step {event.step}"
        case Saved():
            return f"saved {event.path} ({format_bytes(event.size_bytes)})"
        case Verified() | OutOfMemory() | Rung() | Paused() | Resumed():
            return describe(event) or ""
        case Warned():
            return f"warning: {event.message}"
        case Failed():
            return f"failed: {event.message}"
        case Finished():
            return f"report: {event.report}"
        case Step():
            return plain(f"step {event.step}")


def _measured(event: Measured) -> str:
    parts = [
        f"{name} {format_bytes(size)}"
        for name, size in (("allocated", event.allocated_bytes), ("reserved", event.reserved_bytes))
        if size is not None
    ]
    return ", ".join(parts) or "nothing"
