"""Blocking work in a thread, given up together with the worker that waits for it."""

import asyncio
from collections.abc import Callable
from threading import Event
from typing import ParamSpec, TypeVar

from vramplan.planner.adapters.cancelling import given_up_by

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")


async def in_thread(
    function: Callable[Arguments, Answer], *arguments: Arguments.args, **named: Arguments.kwargs
) -> Answer:
    """The answer of a blocking function; when the worker is cancelled, long work in it ends too."""
    given_up = Event()
    with given_up_by(given_up):
        try:
            return await asyncio.to_thread(function, *arguments, **named)
        except asyncio.CancelledError:
            given_up.set()
            raise
