"""Weights as compact JSON rows and back: how the catalogue stores them and how a child process reports them.

A row is ``[name, shape, module]``, then ``layers`` ("0-31", "0,2,4-7"; "" for a weight outside the layers) and
``dtype`` where they are needed; a row's dtype defaults to the one given beside the rows.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from vramplan.planner.dtypes import Dtype
from vramplan.planner.model_spec import Weight


def rows_of(weights: Iterable[Weight], dtype: Dtype) -> list[list[Any]]:
    """Pack weights whose usual dtype is ``dtype``."""
    rows: list[list[Any]] = []
    for weight in weights:
        row: list[Any] = [weight.name, list(weight.shape), weight.module]
        if weight.layers or weight.dtype != dtype:
            row.append(ranges_of(weight.layers))
        if weight.dtype != dtype:
            row.append(weight.dtype)
        rows.append(row)
    return rows


def weights_of(rows: Iterable[Sequence[Any]], dtype: Dtype) -> tuple[Weight, ...]:
    """Unpack ``rows_of``.

    >>> weights_of([["model.norm.weight", [64], "norm"]], "bf16")[0].numel
    64
    """
    return tuple(
        Weight(
            name=row[0],
            shape=tuple(row[1]),
            module=row[2],
            layers=layers_of(row[3]) if len(row) > 3 else (),
            dtype=row[4] if len(row) > 4 else dtype,
        )
        for row in rows
    )


def ranges_of(layers: Sequence[int]) -> str:
    """Increasing layer numbers as text.

    >>> ranges_of((0, 1, 2, 5, 7, 8))
    '0-2,5,7-8'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][1] + 1:
            runs[-1][1] = layer
        else:
            runs.append([layer, layer])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def layers_of(text: str) -> tuple[int, ...]:
    """Layer numbers from text.

    >>> layers_of("0-2,5")
    (0, 1, 2, 5)
    """
    layers: list[int] = []
    for run in text.split(",") if text else ():
        first, _, last = run.partition("-")
        layers.extend(range(int(first), int(last or first) + 1))
    return tuple(layers)
