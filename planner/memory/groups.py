"""Groups of equal tensors, and what the allocator gives them."""

from dataclasses import dataclass


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

    slower: bool = False
    """It learns at the lower layers' rate, in a parameter group of its own."""

    def rounded(self, quantum_bytes: int) -> int:
        """Bytes the allocator gives all of them."""
        return self.count * round_up(self.numel * self.element_bytes, quantum_bytes)


def round_up(size_bytes: int, quantum_bytes: int) -> int:
    """The next multiple.

    >>> round_up(513, 512)
    1024
    """
    return -(-size_bytes // quantum_bytes) * quantum_bytes


def total_bytes(groups: list[Group], quantum_bytes: int) -> int:
    """Bytes of several groups."""
    return sum(group.rounded(quantum_bytes) for group in groups)
