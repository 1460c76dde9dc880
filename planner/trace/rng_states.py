"""The generator's states that checkpointing keeps, so that a layer drops out the same when it runs again.

torch.utils.checkpoint takes one before each layer's forward, and keeps it until the layer has run again; while it does,
``torch.random.fork_rng`` keeps another. They are tensors of the host that no dispatch mode sees: on a CPU they count,
5,056 bytes each (torch 2.13), beside a GPU they do not.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch

from vramplan.planner.trace.tracker import Tracker


@contextmanager
def seen_states(tracker: Tracker) -> Iterator[None]:
    """Log every state of the CPU's generator that is asked for inside."""
    original = torch.get_rng_state

    def get_rng_state() -> torch.Tensor:
        state = original()
        tracker.see(state, "checkpoint.rng_state")
        return state

    with patch.object(torch, "get_rng_state", get_rng_state):
        yield
