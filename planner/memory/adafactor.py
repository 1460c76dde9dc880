"""transformers' Adafactor as Trainer sets it up: no relative step, no scaling by the parameter, no first moment.

    a matrix       one fp32 for each row and each column: the second moment is their product
    a vector       one fp32 for each element
    each           a 4-byte root mean square on the device

The step goes parameter by parameter in fp32, and the names of the parameter before stay bound while the next begins.
Source: transformers/optimization.py (Adafactor.step); transformers/trainer_optimizer.py (_get_adafactor).
"""

from dataclasses import dataclass, field

from vramplan.planner.errors import UnsupportedError
from vramplan.planner.memory.groups import Group, one_after_another, round_up

FP32 = 4


def state_groups(trainable: list[Group]) -> list[Group]:
    """The states of each parameter.

    Raises:
        UnsupportedError: a parameter's shape is not known.
    """
    out = []
    for group in trainable:
        out += [Group(numel, FP32, group.count) for numel in _moments(group)]
        out.append(Group(1, FP32, group.count))
    return out


def _moments(group: Group) -> tuple[int, ...]:
    """Elements of the second moment's parts: rows and columns, or all."""
    if group.shape is None:
        raise UnsupportedError(
            "--optimizer adafactor is not priced yet for this method", remedy="use --optimizer adamw_torch_fused"
        )
    if len(group.shape) < 2:
        return (group.numel,)
    return group.numel // group.shape[-1], group.numel // group.shape[-2]


@dataclass
class _Names:
    """The step's local names, each with the tensor it is bound to, and the most they came to."""

    quantum_bytes: int
    level: int = 0
    highest: int = 0
    live: dict[str, int] = field(default_factory=dict)
    at_highest: tuple[int, ...] = ()

    def bind(self, name: str, numel: int, *, beside: tuple[int, ...] = ()) -> None:
        """A fresh fp32 tensor under a name, ``beside`` temporaries of those elements; the old one dies last."""
        sizes = [round_up(each * FP32, self.quantum_bytes) for each in (*beside, numel)]
        reached = self.level + sum(sizes)
        if reached > self.highest:
            self.highest = reached
            self.at_highest = (*self.live.values(), *sizes)
        self.level += sizes[-1] - self.live.pop(name, 0)
        self.live[name] = sizes[-1]

    def drop(self, name: str) -> None:
        """The name is bound to something that was there already, or to nothing."""
        self.level -= self.live.pop(name, 0)


def _step(parts: list[list[Group]], quantum_bytes: int) -> _Names:
    names = _Names(quantum_bytes)
    for part in parts:
        for group in one_after_another(part):
            _update(names, group)
    return names


def _update(names: _Names, group: Group) -> None:
    """One parameter, statement by statement."""
    numel, half = group.numel, group.element_bytes < FP32
    for name in ("grad", "p_data_fp32"):
        names.drop(name)
        if half:
            names.bind(name, numel)
    names.bind("update", numel, beside=(numel,))  # grad**2, then + eps
    moments = _moments(group)
    names.bind("update", numel, beside=moments if len(moments) == 2 else ())
    names.bind("", numel)  # -update
    names.drop("")


def step_peak_bytes(parts: list[list[Group]], quantum_bytes: int) -> int:
    """The most one step holds beyond weights, gradients and states.

    Args:
        parts: the optimizer's parameter groups, in order.
    """
    return _step(parts, quantum_bytes).highest


def step_temporaries(parts: list[list[Group]]) -> list[Group]:
    """What is held at that moment."""
    return [Group(size, 1, 1) for size in _step(parts, 1).at_highest]
