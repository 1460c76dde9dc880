"""Groups of equal tensors, and what the allocator gives them."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Group:
    """Equal tensors: ``count`` of ``numel`` elements at ``element_bytes``."""

    numel: int
    element_bytes: int
    count: int
    decays: bool = True
    """Trainer puts it in the weight-decay parameter group."""
    embedding: bool = False
    shape: tuple[int, ...] | None = None
    """Its dimensions, for an optimizer that factors matrices; None: not said."""

    rate: int = 0
    """Which of the method's learning rates it has, each in parameter groups of its own; 0: the recipe's."""

    def rounded(self, quantum_bytes: int) -> int:
        """Bytes the allocator gives all of them."""
        return self.count * round_up(self.numel * self.element_bytes, quantum_bytes)


def one_after_another(groups: list[Group]) -> Iterator[Group]:
    """The tensors as a loop over parameters meets them, each its group: layer after layer where several follow that
    are in many layers, and no more than two layers, for a third goes as the second.

    >>> [group.numel for group in one_after_another([Group(9, 4, 1), Group(3, 4, 32), Group(5, 4, 32)])]
    [9, 3, 5, 3, 5]
    """
    for many, run in groupby(groups, key=lambda group: group.count > 1):
        layer = list(run)
        yield from layer * (2 if many else 1)


def round_up(size_bytes: int, quantum_bytes: int) -> int:
    """The next multiple.

    >>> round_up(513, 512)
    1024
    """
    return -(-size_bytes // quantum_bytes) * quantum_bytes


def total_bytes(groups: list[Group], quantum_bytes: int) -> int:
    """Bytes of several groups."""
    return sum(group.rounded(quantum_bytes) for group in groups)
