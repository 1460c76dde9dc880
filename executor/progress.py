"""A run's events as narration: one line that is rewritten on a terminal, plain lines elsewhere."""

from collections.abc import Callable
from datetime import timedelta

from vramplan.executor.events import Evaluated, Event, Failed, Measured, Progress, Saved, Step, Warned
from vramplan.planner.cli.render import plain
from vramplan.planner.units import format_bytes


class Narrator:
    """Writes what a person watching wants to know.

    Args:
        write: where text goes (stderr's ``write``).
        live: a terminal, so that steps may overwrite one another.
        width: columns of the terminal.
    """

    def __init__(self, write: Callable[[str], object], *, live: bool, width: int) -> None:
        self._write = write
        self._live = live
        self._width = width
        self._open = 0

    def tell(self, event: Event) -> None:
        """Narrate one event."""
        text = describe(event)
        if text is None:
            return
        if self._live and isinstance(event, Step):
            line = text[: self._width - 1]
            self._write("\r" + line.ljust(self._open))
            self._open = len(line)
            return
        self.close()
        self._write(text + "\n")

    def close(self) -> None:
        """End the line that is being rewritten, if there is one."""
        if self._open:
            self._write("\n")
            self._open = 0


def describe(event: Event) -> str | None:
    """One line about an event, without control characters; None for what is not worth a line.

    >>> from vramplan.executor.events import Evaluated
    >>> describe(Evaluated(time=0.0, step=20, eval_loss=2.5))
    'step 20: held-out loss 2.5000'
    """
    match event:
        case Progress():
            return plain(event.what) + ("" if event.fraction is None else f" {event.fraction:.0%}")
        case Step():
            return _step(event)
        case Measured():
            peak = event.allocated_bytes
            return None if peak is None else f"measured: {event.phase} peaks at {format_bytes(peak)}"
        case Evaluated():
            return f"step {event.step}: held-out loss {event.eval_loss:.4f}"
        case Saved():
            return f"saved {plain(event.path)} ({format_bytes(event.size_bytes)})"
        case Warned():
            return f"warning: {plain(event.message)}"
        case Failed():
            remedy = f"\n  {plain(event.remedy)}" if event.remedy else ""
            return ("" if event.interrupted else "failed: ") + plain(event.message) + remedy
        case _:
            return None


def _step(event: Step) -> str:
    parts = [f"step {event.step}/{event.max_steps}"]
    if event.loss is not None:
        parts.append(f"loss {event.loss:.4f}")
    if event.tokens_per_second is not None:
        parts.append(f"{event.tokens_per_second:.0f} tokens/s")
    if event.allocated_bytes is not None:
        parts.append(f"{format_bytes(event.allocated_bytes)} allocated")
    if event.process_bytes is not None:
        parts.append(f"{format_bytes(event.process_bytes)} in use")
    if event.eta_seconds is not None:
        parts.append(f"{timedelta(seconds=round(event.eta_seconds))} left")
    return " · ".join(parts)
