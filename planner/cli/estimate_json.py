"""A priced setup as the JSON object that ``--json`` prints, alone or as a row of a recommendation."""

from collections.abc import Sequence
from typing import Any

from vramplan.planner.candidate import Candidate, ResolvedOption


def estimate_object(candidate: Candidate, options: Sequence[ResolvedOption] = ()) -> dict[str, Any]:
    """Everything about one estimate as JSON values. Bytes are ints; ``verdict`` is null without a device."""
    content = candidate.model_dump(mode="json")
    budget: dict[str, Any] = content.pop("budget")
    first = ("model", "total_params", "trainable_params", "setup", "workload", "device")
    return (
        {name: content.pop(name) for name in first}
        | budget
        | content
        | {"options": [option.model_dump(mode="json") for option in options]}
    )
