"""A training loop as people write it by hand, as far as memory can tell.

    for batch in loader:
        optimizer.zero_grad()
        outputs = model(**batch)
        loss = outputs.loss
        loss.backward()
        optimizer.step()

``outputs`` and ``loss`` stay bound: the logits, and the key/value cache that a model makes by default, live through
the backward, the optimizer step, and the next step's forward until the name is bound anew. Source: the loop of PEFT's
own benchmark, huggingface/peft method_comparison/MetaMathQA/run.py, train().
"""

import contextlib
from typing import Any

import torch
from torch import nn

from vramplan.planner.trace.step import Batch, Mark

AFTER_ANOTHER = "carried"
"""The mark between two steps: what is alive now was left by the first."""


def two_steps(model: nn.Module, batch: Batch, *, autocast: torch.dtype | None, scaled: bool, mark: Mark) -> Any:
    """Forward and backward twice, without optimizer; what the loop still holds then.

    Args:
        autocast: dtype of ``torch.autocast`` around the forward, as the loop itself enters it.
        scaled: a gradient scaler multiplies the loss.
    """
    model.train()
    scale = torch.ones(())
    for repetition in range(2):
        model.zero_grad()
        if repetition:
            mark(AFTER_ANOTHER)
        mark("forward")
        with _autocast(autocast):
            outputs = model(**batch)
            loss = outputs.loss
        mark("backward")
        (loss * scale if scaled else loss).backward()
        mark("end")
    return outputs, loss


def _autocast(dtype: torch.dtype | None) -> contextlib.AbstractContextManager[Any]:
    return contextlib.nullcontext() if dtype is None else torch.autocast("cpu", dtype=dtype)
