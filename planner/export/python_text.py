"""Values and calls as Python source: what a plan holds stands there as literals, and is never code."""

from collections.abc import Mapping
from typing import Any

from vramplan.planner.export.yaml_text import quoted

_COMMENTS = {
    "gradient_accumulation_steps": "micro batches in one optimizer step",
    "gradient_checkpointing": "recompute activations in the backward pass instead of keeping them",
    "warmup_steps": "below 1: a share of all steps",
    "max_steps": "-1: num_train_epochs decides",
    "max_length": "longer rows are cut",
    "save_steps": "unused where save_strategy is no",
}


class Code(str):
    """An expression of ours, put into a script as it is."""


def literal(value: Any) -> str:
    """A value as a Python expression; strings in ASCII alone.

    >>> literal({"a": ["b", None, 0.5]}), literal(Code("torch.float32"))
    ('{"a": ["b", None, 0.5]}', 'torch.float32')
    """
    if isinstance(value, Code):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{literal(key)}: {literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(literal(one) for one in value) + "]"
    return repr(value)


def call(name: str, arguments: Mapping[str, Any], *, first: str = "", last: str = "") -> str:
    """A call with one argument a line, inside a function."""
    indent = "    "
    lines = [f"{name}("] + ([f"{indent}    {first},"] if first else [])
    for key, value in arguments.items():
        comment = f"  # {_COMMENTS[key]}" if key in _COMMENTS else ""
        lines.append(f"{indent}    {key}={literal(value)},{comment}")
    lines += [f"{indent}    {last},"] if last else []
    return "\n".join([*lines, f"{indent})"])
