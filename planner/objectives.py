"""What matters to the person who asks, and which methods that rules out.

Nothing here is a weight: priorities are compared one after the other, the first named first.
"""

from typing import Literal

from pydantic import Field

from vramplan.planner.method_facts import HU, facts_of
from vramplan.planner.methods import Bottleneck, Method, trains_base, virtual_tokens
from vramplan.planner.values import Value

Priority = Literal["quality", "speed", "memory", "cost"]
Complexity = Literal["simple", "moderate", "complex"]
PRIORITIES: tuple[Priority, ...] = ("quality", "speed", "memory", "cost")
LATENCY_SOURCE = f"{HU}, table 1: GPT-2 medium, one row of 128 tokens"
HOULSBY_LATENCY, PFEIFFER_LATENCY = 0.303, 0.207
"""Most that bottlenecks added to a forward pass there."""


class Objectives(Value):
    """Quality first, at moderate complexity, for one task, unless somebody says otherwise."""

    prefer: tuple[Priority, ...] = ("quality", "speed")
    """Most important first; see ``planner.merits`` for what follows."""
    complexity: Complexity = "moderate"
    num_tasks: int = Field(default=1, ge=1)
    """Tasks to serve from one base model, each with an adapter of its own."""
    keep_knowledge: bool = False
    """What the model knew must not be lost."""
    must_merge: bool = False
    """The result must be one model without an adapter beside it."""
    latency_budget: float | None = Field(default=None, ge=0.0)
    """Share by which a forward pass may become slower, at most."""


def why_ruled_out(method: Method, objectives: Objectives, sequence_length: int) -> str | None:
    """The need a method cannot meet; None: it meets all."""
    if objectives.must_merge and not merges(method):
        return f"{method.kind} cannot be merged into the model"
    if objectives.num_tasks > 1 and trains_base(method):
        return f"{method.kind} changes the base: {objectives.num_tasks} tasks would be {objectives.num_tasks} models"
    budget = objectives.latency_budget
    if budget is not None:
        share, source = added_latency(method, sequence_length, served_unmerged=objectives.num_tasks > 1)
        if share is not None and share > budget:
            return f"{method.kind} may slow a forward pass by {share:.1%}, more than {budget:.1%} ({source})"
    return None


def merges(method: Method) -> bool:
    """Whether the result is, or can become, one model with nothing beside it."""
    return trains_base(method) or facts_of(method.kind).mergeable


def added_latency(
    method: Method, sequence_length: int, *, served_unmerged: bool = False
) -> tuple[float | None, str | None]:
    """The most a method is known to slow a forward pass, as a share, and how that is known; None: nobody measured.

    >>> from vramplan.planner.methods import Lora, Prompt
    >>> added_latency(Lora(), 1000)[0], added_latency(Prompt(num_virtual_tokens=20), 1000)[0]
    (0.0, 0.02)
    """
    if isinstance(method, Bottleneck):
        return (HOULSBY_LATENCY if method.adapter_kind == "houlsby" else PFEIFFER_LATENCY), LATENCY_SOURCE
    if tokens := virtual_tokens(method):
        return tokens / sequence_length, f"{tokens} positions beside {sequence_length}"
    if trains_base(method):
        return 0.0, "the same architecture"
    return (None, None) if served_unmerged else (0.0, "merged")
