"""Which learning rate a parameter has, told from its name alone: the lower layers' own, or its group's.

Howard and Ruder (2018, arXiv:1801.06146, section 3.2) give lower layers smaller rates, because they hold what is
general; embeddings lie below the first layer. Groups that a person names match modules as PEFT matches targets: a
module whose dotted name equals the group's or ends with a dot and it, and everything inside that module.
"""

import math
import re
from collections.abc import Collection, Iterator

from vramplan.planner.errors import UsageError
from vramplan.planner.methods import Layerwise, LrGroup

_LAYER = re.compile(r"(?:^|\.)(\d+)\.")
_EMBEDDINGS = ("embed", "wte.", "wpe.", "shared.")
_RANGE = re.compile(r"(\d+)-(\d+)")
_EXAMPLE = "name groups as in --lr-groups embed_tokens=1e-6,layers.0-15=5e-6,lm_head=2e-5"


def parse_groups(text: str) -> tuple[LrGroup, ...]:
    """Groups as they are written on the command line.

    >>> [(group.modules, group.learning_rate) for group in parse_groups("embed_tokens=1e-6, layers.0-15=5e-6")]
    [('embed_tokens', 1e-06), ('layers.0-15', 5e-06)]

    Raises:
        UsageError: a part is not ``modules=rate``, a rate is not a finite number above 0, or a range runs backwards.
    """
    return tuple(_parse(part.strip()) for part in text.split(","))


def _parse(part: str) -> LrGroup:
    modules, _, rate = (piece.strip() for piece in part.rpartition("="))
    if not modules or not all(modules.split(".")):
        raise UsageError(f"--lr-groups {part or '(nothing)'}: not modules=rate", remedy=_EXAMPLE)
    try:
        learning_rate = float(rate)
    except ValueError:
        learning_rate = 0.0
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        raise UsageError(f"--lr-groups {part}: a learning rate is a finite number above 0", remedy=_EXAMPLE)
    for low, high in _ranges(modules):
        if low > high:
            raise UsageError(f"--lr-groups {modules}: the range runs backwards", remedy=f"write {high}-{low}")
    return LrGroup(modules=modules, learning_rate=learning_rate)


def learning_rates(method: Layerwise) -> tuple[float, ...]:
    """The rates beside the recipe's own, which is number 0: the first of these is number 1."""
    if method.lr_groups:
        return tuple(group.learning_rate for group in method.lr_groups)
    assert method.lower_learning_rate is not None
    return (method.lower_learning_rate,)


def rate_number(name: str, method: Layerwise) -> int:
    """Which rate a parameter has: 0 the recipe's, n the n-th of ``learning_rates``.

    >>> lower = Layerwise(lower_layers=6)
    >>> [rate_number(f"model.{name}.weight", lower) for name in ("embed_tokens", "layers.5.mlp.up_proj")]
    [1, 1]
    >>> [rate_number(f"model.{name}.weight", lower) for name in ("layers.6.mlp.up_proj", "norm", "lm_head")]
    [0, 0, 0]
    """
    if method.lr_groups:
        return next(iter(_groups_with(name, method)), 0)
    assert method.lower_layers is not None
    layer = _LAYER.search(name)
    if layer is not None:
        return int(int(layer[1]) < method.lower_layers)
    return int(any(part in name for part in _EMBEDDINGS))


def check_groups(names: Collection[str], method: Layerwise) -> None:
    """Check that each named group has a parameter, and each parameter at most one of them.

    Args:
        names: of the parameters that train.

    Raises:
        UsageError: a group matches none of them, two match the same one, or a range reaches past the last layer.
    """
    seen: set[int] = set()
    for name in names:
        numbers = list(_groups_with(name, method))
        seen.update(numbers)
        if len(numbers) > 1:
            first, second = (method.lr_groups[number - 1].modules for number in numbers[:2])
            raise UsageError(
                f"--lr-groups {first} and {second} both match {name}: a parameter has one learning rate",
                remedy=f"make one of the two narrower, or leave {second} out",
            )
    for number, group in enumerate(method.lr_groups, 1):
        if number not in seen:
            top = sorted({_spread(name) for name in names})
            raise UsageError(
                f"--lr-groups {group.modules} matches no module that trains",
                remedy=f"names are matched as --target matches them; this model has {', '.join(top)}",
            )
        _check_ends(group, names)


def _check_ends(group: LrGroup, names: Collection[str]) -> None:
    parts = group.modules.split(".")
    for place, part in enumerate(parts):
        for low, high in _ranges(part):
            for end in (low, high):
                if not any(_is_inside(name, [*parts[:place], str(end)]) for name in names):
                    raise UsageError(
                        f"--lr-groups {group.modules}: there is no {'.'.join([*parts[:place], str(end)])}",
                        remedy="count layers from 0; both ends of a range belong to it",
                    )


def _groups_with(name: str, method: Layerwise) -> Iterator[int]:
    """The numbers of the groups that have a parameter."""
    for number, group in enumerate(method.lr_groups, 1):
        if _is_inside(name, group.modules.split(".")):
            yield number


def _is_inside(name: str, wanted: list[str]) -> bool:
    """Whether a parameter is in a module whose name ends with these parts."""
    modules = name.split(".")[:-1]
    starts = range(len(modules) - len(wanted) + 1)
    return any(all(map(_fits, wanted, modules[start:])) for start in starts)


def _fits(wanted: str, part: str) -> bool:
    ends = _RANGE.fullmatch(wanted)
    return part == wanted or bool(ends and part.isdecimal() and int(ends[1]) <= int(part) <= int(ends[2]))


def _ranges(modules: str) -> list[tuple[int, int]]:
    found = (_RANGE.fullmatch(part) for part in modules.split("."))
    return [(int(ends[1]), int(ends[2])) for ends in found if ends]


def _spread(name: str) -> str:
    """A parameter's module as it could be named: its top, or the list of layers it is in.

    >>> _spread("model.layers.3.mlp.up_proj.weight"), _spread("lm_head.weight"), _spread("model.norm.weight")
    ('layers.N', 'lm_head', 'norm')
    """
    modules = name.split(".")[:-1]
    index = next((place for place, part in enumerate(modules) if part.isdecimal()), None)
    return f"{modules[index - 1]}.N" if index else modules[-1] if modules else name
