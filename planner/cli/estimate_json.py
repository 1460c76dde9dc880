"""A priced setup as the JSON object that ``--json`` prints, alone or as a row of a recommendation."""

from collections.abc import Sequence
from typing import Any

from vramplan.planner.candidate import Candidate, ResolvedOption
from vramplan.planner.fit_chance import fit_chance
from vramplan.planner.throughput.values import RunCost


def estimate_object(
    candidate: Candidate, options: Sequence[ResolvedOption] = (), cost: RunCost | None = None
) -> dict[str, Any]:
    """Everything about one estimate as JSON values. Bytes are ints; ``verdict`` is null without a device, ``time``
    where its rates are unknown, ``cost`` where nobody asked."""
    content = candidate.model_dump(mode="json")
    budget: dict[str, Any] = content.pop("budget")
    first = ("model", "total_params", "trainable_params", "setup", "workload", "device")
    return (
        {name: content.pop(name) for name in first}
        | budget
        | content
        | {"fit_chance": fit_chance(candidate)}
        | {"cost": None if cost is None else cost.model_dump(mode="json")}
        | {"options": [option.model_dump(mode="json") for option in options]}
    )
