"""Text from outside (names, paths, messages) made safe to draw: no markup, no control characters, one line."""

from typing import TYPE_CHECKING

from rich.text import Text
from textual.content import Content

from vramplan.planner.cli.render import plain
from vramplan.planner.device import Device
from vramplan.planner.errors import VramplanError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.units import format_bytes, format_count, format_gib
from vramplan.tui.bindings import key_of

if TYPE_CHECKING:
    from vramplan.executor.preflight import Preflight


def line(text: str, style: str = "") -> Content:
    """One line of literal text: square brackets are square brackets."""
    return Content.styled(plain(text), style) if style else Content(plain(text))


def cell(text: str, *, right: bool = False, style: str = "") -> Text:
    """A literal table cell."""
    return Text(plain(text), style=style, justify="right" if right else "left", no_wrap=True, overflow="ellipsis")


def gib(size_bytes: int | None) -> str:
    """A GiB number for a column, or a dash when it is not known."""
    return "–" if size_bytes is None else format_gib(size_bytes)


def describe_model(model: ModelSpec | None) -> str:
    """One line: who, which revision, how large.

    >>> describe_model(None)
    'no model yet: choose one (1)'
    """
    if model is None:
        return f"no model yet: choose one ({key_of('model')})"
    revision = f" @ {model.revision[:7]}" if model.revision else ""
    parts = [f"{model.repo_id}{revision}", f"{format_count(model.total_params)} params"]
    layers = model.config.get("num_hidden_layers")
    if isinstance(layers, int):
        parts.append(f"{layers} layers")
    parts.append(model.architecture)
    return " · ".join(parts)


def describe_device(device: Device | None) -> str:
    """One line: what it is, what is free, what it can do.

    >>> describe_device(None)
    'no device: figures without a verdict; d picks one'
    """
    if device is None:
        return "no device: figures without a verdict; d picks one"
    if device.free_bytes is None:
        memory = f"{format_bytes(device.total_bytes)} ({device.source})"
    else:
        memory = f"{format_gib(device.free_bytes)} of {format_bytes(device.total_bytes)} free"
    parts = [device.name, memory]
    if device.reserve_bytes:
        parts.append(f"{format_bytes(device.reserve_bytes)} kept back")
    if device.compute_capability is not None:
        parts.append("sm_{}{}".format(*device.compute_capability))
    if device.bf16_native:
        parts.append("bf16")
    return " · ".join(parts)


def what_blocks(preflight: "Preflight") -> str:
    """What to do about each check that blocks a run."""
    return "; ".join(check.remedy or check.found for check in preflight.checks if check.verdict == "blocks")


def describe_error(error: BaseException) -> str:
    """One line with the remedy; a bug of ours is named as one, never a traceback."""
    if isinstance(error, VramplanError):
        return error.message if error.remedy is None else f"{error.message} — {error.remedy}"
    return f"unexpected {type(error).__name__}: {error}"
