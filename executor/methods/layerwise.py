"""Layer-wise learning rates: a trainer's optimizer, each of its parameter groups parted by rate."""

from typing import Any

from vramplan.planner.layerwise import check_groups, learning_rates, rate_number
from vramplan.planner.methods import Layerwise


def part_groups(optimizer: Any, model: Any, method: Layerwise) -> None:
    """Move the parameters of each rate to groups of their own, alike but for the rate.

    For an optimizer that has taken no step yet, and no scheduler: both remember groups as they were.

    Raises:
        UsageError: a group that the plan names is not in this model.
    """
    whole = list(optimizer.param_groups)
    trained = {id(parameter) for group in whole for parameter in group["params"]}
    names = {id(parameter): name for name, parameter in model.named_parameters() if id(parameter) in trained}
    check_groups(names.values(), method)
    numbers = {key: rate_number(name, method) for key, name in names.items()}
    parted = [(number, rate, group) for number, rate in enumerate(learning_rates(method), 1) for group in whole]
    for number, rate, group in parted:
        moved = [parameter for parameter in group["params"] if numbers[id(parameter)] == number]
        if not moved:
            continue
        alike = {name: value for name, value in group.items() if name != "params"}
        group["params"] = [parameter for parameter in group["params"] if numbers[id(parameter)] != number]
        optimizer.add_param_group({**alike, "params": moved, "lr": rate})
