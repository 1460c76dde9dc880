"""The shortest stack of layers that shows every neighbourhood of a real one."""

from vramplan.planner.programs.program import neighbourhood

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
    """Which layers of the whole make that stack.

    >>> shortest_stack_layers(("a",) * 32)
    (0, 1, 2, 3)
    """
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
