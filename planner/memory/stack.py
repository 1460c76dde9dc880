"""The shortest stack of layers that shows every neighbourhood of a real one."""

from collections.abc import Mapping

from vramplan.planner.programs.program import STACKS, neighbourhood, stack_bounds
from vramplan.planner.tasks import in_tower

MINIMUM_FOLDED_DEPTH = 4
"""Below this every layer is next to an end, so the program is of that very depth."""


def shortest_stack(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """The shortest beginning and end of a stack that show every neighbourhood of the whole, at least four layers.

    >>> shortest_stack(("a",) * 32)
    ('a', 'a', 'a', 'a')
    >>> "".join(shortest_stack(("s", "f") * 8))
    'sfsfsf'
    """
    return tuple(kinds[layer] for layer in shortest_stack_layers(kinds))


def shortest_stack_layers(kinds: tuple[str, ...]) -> tuple[int, ...]:
    """Which layers of the whole make that stack; of two stacks each is shortened by itself.

    >>> shortest_stack_layers(("a",) * 32)
    (0, 1, 2, 3)
    >>> shortest_stack_layers(("encoder:a",) * 6 + ("decoder:a",) * 6)
    (0, 1, 2, 3, 6, 7, 8, 9)
    """
    return tuple(start + layer for start, stop in stack_bounds(kinds) for layer in _shortened(kinds[start:stop]))


def _shortened(kinds: tuple[str, ...]) -> tuple[int, ...]:
    depth = len(kinds)
    if depth <= MINIMUM_FOLDED_DEPTH:
        return tuple(range(depth))
    wanted = {neighbourhood(kinds, layer, 1) for layer in range(depth)}
    for length in range(MINIMUM_FOLDED_DEPTH, depth):
        for head in range(length, 0, -1):
            layers = (*range(head), *range(depth - (length - head), depth))
            stack = tuple(kinds[layer] for layer in layers)
            if wanted <= {neighbourhood(stack, layer, 1) for layer in range(length)}:
                return layers
    return tuple(range(depth))


def running_stacks(depths: Mapping[str, int]) -> tuple[str, ...]:
    """Which lists of layers a training step runs through: an encoder's and then its decoder's where both are there,
    else the longest. A vision or audio tower's never runs on text.

    Args:
        depths: layers of each list, by its name in the model.

    >>> running_stacks({"encoder.block": 6, "decoder.block": 6})
    ('encoder.block', 'decoder.block')
    >>> running_stacks({"visual.blocks": 32, "language_model.layers": 28})
    ('language_model.layers',)
    """
    language = {name: depth for name, depth in depths.items() if not in_tower(name)}
    if not language:
        return ()
    halves = [[name for name in language if half in name.split(".")] for half in STACKS]
    if all(halves):
        return tuple(max(half, key=lambda name: language[name]) for half in halves)
    return (max(language, key=lambda name: language[name]),)
