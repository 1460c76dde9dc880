"""Work that somebody waits for and may give up: tokenising a file, tracing a model.

A thread cannot be ended from outside. Work that takes long asks here now and then whether it is still wanted; the
answer belongs to the caller's context (contextvars), which ``asyncio.to_thread`` hands on to the thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import Event

_GIVEN_UP: ContextVar[Event | None] = ContextVar("given_up", default=None)


class Cancelled(Exception):  # noqa: N818 - nobody's mistake
    """The work was given up by whoever asked for it."""


@contextmanager
def given_up_by(event: Event) -> Iterator[None]:
    """Work begun inside ends with ``Cancelled`` once the event is set."""
    token = _GIVEN_UP.set(event)
    try:
        yield
    finally:
        _GIVEN_UP.reset(token)


def check_wanted() -> None:
    """Go on, unless the work was given up.

    Raises:
        Cancelled: it was.
    """
    event = _GIVEN_UP.get()
    if event is not None and event.is_set():
        raise Cancelled
