"""Where the step is: hooks that keep a tracker's segment, layer and module true while a model runs.

Where an encoder's layers are followed by a decoder's, ``forward.between`` is what happens between the two stacks.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from vramplan.planner.trace.skeleton import find_stacks
from vramplan.planner.trace.tracker import Tracker

WRAPPERS = ("base_model", "base_layer")


@contextmanager
def following(model: nn.Module, tracker: Tracker) -> Iterator[None]:
    """Follow one forward and backward of ``model``."""
    handles = _Follower(model, tracker).attach()
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Follower:
    """The hooks and what they share."""

    def __init__(self, model: nn.Module, tracker: Tracker) -> None:
        self.model = model
        self.tracker = tracker
        self.where = tracker.where
        stacks = find_stacks(model)
        self.layers = [layer for stack in stacks for layer in stack]
        ends = list(itertools.accumulate(len(stack) for stack in stacks))
        self.firsts, self.lasts = {0, *ends[:-1]}, {end - 1 for end in ends}
        self.labels = _labels(model)

    def attach(self) -> list[Any]:
        handles: list[Any] = []
        for index, layer in enumerate(self.layers):
            handles.append(layer.register_forward_pre_hook(self._before_layer(index), with_kwargs=True))
            handles.append(layer.register_forward_hook(self._after_layer(index)))
        handles += [register_module_forward_pre_hook(self._push), register_module_forward_hook(self._pop)]
        for parameter in self.model.parameters():
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(self.tracker.accumulated))
        return handles

    def _enter(self, name: str, layer: int | None) -> None:
        self.where.name, self.where.layer = name, layer

    def _in_backward(self) -> bool:
        """Then a layer's forward is a recomputation, and the segment stays the backward's."""
        return self.where.name.startswith("backward")

    def _before_layer(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._in_backward():
                return
            self._enter("forward.layer", index)
            hidden = args[0] if args else kwargs.get("hidden_states")
            if index in self.firsts and isinstance(hidden, torch.Tensor) and hidden.requires_grad:
                before = "backward.embed" if index == 0 else "backward.between"
                hidden.register_hook(lambda grad: self._enter(before, None))

        return hook

    def _after_layer(self, index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if self._in_backward():
                return
            if index in self.lasts:
                self._enter("forward.head" if index == len(self.layers) - 1 else "forward.between", None)
            hidden = out[0] if isinstance(out, (tuple, list)) else out
            if hidden.requires_grad:
                hidden.register_hook(lambda grad: self._enter("backward.layer", index))

        return hook

    def _push(self, module: nn.Module, args: Any) -> None:
        self.where.modules.append(self.labels.get(id(module), ""))

    def _pop(self, module: nn.Module, args: Any, out: Any) -> None:
        if self.where.modules:
            self.where.modules.pop()


def _labels(model: nn.Module) -> dict[int, str]:
    """Module paths as a person reads them: wrappers and layer numbers left out."""
    labels = {}
    for name, module in model.named_modules():
        parts = [part for part in name.split(".") if not part.isdigit() and part not in WRAPPERS]
        while parts[:2] == ["model", "model"]:
            parts = parts[1:]
        labels[id(module)] = ".".join(parts)
    return labels
