"""Virtual tokens (prompt, p-tuning, prefix) as a trace must see them.

PEFT keeps their indices in a plain tensor on the host and moves a copy to the model's device in every forward
(peft/peft_model.py, get_prompt). On the CPU there is nothing to move and the indices are the encoder's input as they
are; on CUDA the copy is one int64 a virtual token and row.
"""

from typing import Any

import torch
from torch import nn

from vramplan.planner.device import Route
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
