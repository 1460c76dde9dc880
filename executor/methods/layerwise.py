"""Layer-wise learning rates: a trainer's optimizer, each of its parameter groups parted in two."""

from typing import Any

from vramplan.planner.layerwise import learns_slower
from vramplan.planner.methods import Layerwise


def part_groups(optimizer: Any, model: Any, method: Layerwise) -> None:
    """Move the lower layers' parameters to groups of their own, alike but for the rate.

    For an optimizer that has taken no step yet, and no scheduler: both remember groups as they were.
    """
    slower = {id(p) for name, p in model.named_parameters() if learns_slower(name, method.lower_layers)}
    for group in list(optimizer.param_groups):
        lower = [parameter for parameter in group["params"] if id(parameter) in slower]
        if not lower:
            continue
        alike = {name: value for name, value in group.items() if name != "params"}
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in slower]
        optimizer.add_param_group({**alike, "params": lower, "lr": method.lower_learning_rate})
