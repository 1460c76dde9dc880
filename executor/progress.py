"""A run's events as narration: one line that is rewritten on a terminal, plain lines elsewhere."""

from collections.abc import Callable
from datetime import timedelta

from vramplan.executor.events import (
    Evaluated,
    Event,
    Failed,
    Measured,
    OutOfMemory,
    Paused,
    Progress,
    Resumed,
    Rung,
    Saved,
    Step,
    Verified,
    Warned,
)
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
            return _saved(event)
        case Verified():
            used = "" if event.process_bytes is None else f", {format_bytes(event.process_bytes)} in use at most"
            return f"verified: the run may start{used}"
        case OutOfMemory() | Rung() | Paused() | Resumed():
            return _turn(event)
        case Warned():
            return f"warning: {plain(event.message)}"
        case Failed():
            remedy = f"\n  {plain(event.remedy)}" if event.remedy else ""
            return ("" if event.interrupted else "failed: ") + plain(event.message) + remedy
        case _:
            return None


def _saved(event: Saved) -> str:
    parts = [format_bytes(event.size_bytes)]
    if event.seconds is not None:
        parts.append(f"{event.seconds:.1f} s")
    if event.free_bytes is not None:
        parts.append(f"{format_bytes(event.free_bytes)} left on the disk")
    return f"saved {plain(event.path)} ({', '.join(parts)})"


def _turn(event: OutOfMemory | Rung | Paused | Resumed) -> str:
    """A run that does not simply go on."""
    match event:
        case OutOfMemory():
            where = "" if event.phase is None else f" in {event.phase.replace('_', ' ')} of step {event.step + 1}"
            return f"out of memory{where}: {plain(event.message)}"
        case Rung():
            return _rung(event)
        case Paused():
            return f"paused after step {event.step}; its memory stays taken"
        case Resumed():
            return f"going on after a pause of {timedelta(seconds=round(event.paused_seconds))}"


def _rung(event: Rung) -> str:
    price = "nobody could price it"
    if event.process_bytes is not None and event.high_process_bytes is not None:
        price = f"priced at {format_bytes(event.process_bytes)}, up to {format_bytes(event.high_process_bytes)}"
    where = f"on from the checkpoint of step {event.from_step}" if event.from_step else "from the start"
    return f"next rung: {event.change} ({price}), {where}"


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
