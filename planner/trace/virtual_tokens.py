"""Virtual tokens (prompt, p-tuning, prefix) as a trace must see them.

PEFT keeps their indices in a plain tensor on the host and moves a copy to the model's device in every forward
(peft/peft_model.py, get_prompt). On the CPU there is nothing to move and the indices are the encoder's input as they
are; on CUDA the copy is one int64 a virtual token and row.

A prefix is made for all layers at once and then handed out, each layer's keys and values copied into a cache before the
first layer runs; their gradients wait in views of each layer's whole key and value gradients until the last layer is
done, and come together again. Both hand-outs repeat once a layer outside of the layers, so they get segments of their
own: forward.prefix[i] and backward.prefix[i].
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from vramplan.planner.device import Route
from vramplan.planner.trace.skeleton import find_stacks
from vramplan.planner.trace.tracker import Tracker


def renew_indices(model: Any) -> None:
    """Make the indices again where the model's other tensors are: fake inside a FakeTensorMode."""
    indices = getattr(model, "prompt_tokens", {})
    for name, tensor in indices.items():
        indices[name] = torch.arange(tensor.shape[0])


def declare_indices(model: Any, tracker: Tracker, route: Route) -> None:
    """Tell a tracker of the indices; on CUDA's route they are the host's, and each forward's copy of them is seen."""
    for name, tensor in getattr(model, "prompt_tokens", {}).items():
        tracker.see(tensor, tag="buffer" if route == "cpu" else "host")
        if route == "cuda":
            model.prompt_encoder[name].register_forward_pre_hook(_moved)


def _moved(encoder: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (args[0].clone(memory_format=torch.contiguous_format),)


@contextmanager
def following_prefix(model: Any, tracker: Tracker) -> Iterator[None]:
    """Keep a tracker's segment true while a prefix is handed out to the layers, and while its gradients come back."""
    if not _has_prefix(model):
        yield
        return
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    with ExitStack() as stack:
        follower = _PrefixFollower(tracker, find_stacks(model))
        stack.callback(model.register_forward_pre_hook(follower.start).remove)
        for kind in (DynamicLayer, DynamicSlidingWindowLayer):
            stack.enter_context(patch.object(kind, "update", follower.wrap(kind.update)))
        yield


def _has_prefix(model: Any) -> bool:
    configs = getattr(model, "peft_config", {})
    return any(getattr(config, "peft_type", None) == "PREFIX_TUNING" for config in configs.values())


class _PrefixFollower:
    """A cache layer's first update is its share of the prefix. A decoder beside an encoder is handed a second share,
    for its attention to the encoder, which PEFT throws away before the model runs (peft/peft_model.py, get_prompt)."""

    def __init__(self, tracker: Tracker, stacks: list[nn.ModuleList]) -> None:
        self.tracker = tracker
        self.before, self.depth = sum(map(len, stacks[:-1])), len(stacks[-1])
        self.shares = self.depth * len(stacks)
        self.layers = 0
        self.inside = False

    def start(self, *_: Any) -> None:
        """Every forward fills a cache of its own, from the first layer on."""
        self.layers = 0

    def wrap(self, update: Any) -> Any:
        def followed(layer: Any, keys: torch.Tensor, values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if layer.is_initialized or self.inside or self.layers == self.shares:
                return update(layer, keys, values, *args, **kwargs)
            index = self.before + self.layers % self.depth
            first, self.layers, self.inside = self.layers == 0, self.layers + 1, True
            if first and keys.grad_fn is not None:
                _before_split(keys.grad_fn, lambda *_: self._enter("backward.embed", None))
            if keys.requires_grad:
                keys.register_hook(lambda grad: self._enter("backward.prefix", index))
                for node in _shares_apart(keys.grad_fn):
                    node.register_prehook(lambda *_: self._enter("backward.prefix", index))
            self._enter("forward.prefix", index)
            out = update(layer, keys, values, *args, **kwargs)
            self._enter("forward.embed", None)
            self.inside = False
            return out

        return followed

    def _enter(self, name: str, layer: int | None) -> None:
        self.tracker.where.name, self.tracker.where.layer = name, layer


def _shares_apart(node: Any) -> list[Any]:
    """Where a layer's two shares were cut apart, if there are two: the slice next to the split into layers. These run
    after all layers' own, one by one again."""
    slices = []
    while not node.name().startswith("Split"):
        slices += [node] if node.name().startswith("Slice") else []
        node = node.next_functions[0][0]
    return slices[1:][-1:]


def _before_split(node: Any, hook: Any) -> None:
    """Call a hook before the backward of the split that cut the prefix into layers."""
    while not node.name().startswith("Split"):
        node = node.next_functions[0][0]
    node.register_prehook(hook)
