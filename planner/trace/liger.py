"""Liger's fused linear cross entropy without its Triton kernels: what it allocates, and nothing computed.

The logits exist for a chunk of tokens at a time, in the hidden states' dtype: C rows with C = the next power of two of
ceil(B S / ceil(V / h)), at most B S, so that they take about as much as the hidden states. The gradients of the hidden
states, and of the head where it trains, are made in the forward and kept in their own dtypes until the backward scales
them in place. No logits are returned. Only the loss: Liger's norms, activations and rotary kernels are not put in.

Source: liger-kernel 0.8.5, ops/fused_linear_cross_entropy.py (fused_linear_cross_entropy_forward on CUDA, operands of
one half-precision dtype), transformers/model/llama.py (lce_forward), transformers/model/loss_utils.py.
"""

import types
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn


def chunk_rows(tokens: int, hidden: int, vocabulary: int) -> int:
    """Rows of logits at a time.

    >>> chunk_rows(4 * 4096, 4096, 32000)
    2048
    """
    wanted = -(-tokens // -(-vocabulary // hidden))
    return min(1 << (wanted - 1).bit_length(), tokens)


class _FusedLinearCrossEntropy(torch.autograd.Function):  # type: ignore[misc]
    """Hidden states (N, h), the head's weight (V, h), targets (N) -> their loss."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        (tokens, width), vocabulary = hidden.shape, weight.shape[0]
        hidden_grad = torch.zeros_like(hidden)
        weight_grad = torch.zeros_like(weight) if weight.requires_grad else None
        losses = torch.zeros(hidden.shape[0], dtype=torch.float32)
        mask = target != -100
        logits = torch.empty(chunk_rows(tokens, width, vocabulary), vocabulary, dtype=hidden.dtype)
        del logits
        loss = torch.sum(losses)
        ctx.save_for_backward(hidden_grad.detach(), None if weight_grad is None else weight_grad.detach())
        del mask
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return *ctx.saved_tensors, None


def add_liger_loss(model: nn.Module) -> None:
    """The model's loss is Liger's from here on.

    Raises:
        ValueError: the model is not a decoder ``model`` with a head ``lm_head``.
    """
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if not (hasattr(base, "model") and hasattr(base, "lm_head")):
        raise ValueError(f"Liger's loss is not known for {type(base).__name__}")
    base.forward = types.MethodType(_forward, base)


def _forward(self: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | None = None, **inputs: Any) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    outputs = self.model(**inputs)
    hidden = outputs[0]
    shifted = F.pad(labels, (0, 1), value=-100)[..., 1:].contiguous()
    loss = _FusedLinearCrossEntropy.apply(hidden.view(-1, hidden.shape[-1]), self.lm_head.weight, shifted.view(-1))
    if num_items_in_batch is not None:
        loss = loss / num_items_in_batch
    return CausalLMOutputWithPast(loss=loss, past_key_values=outputs.past_key_values)
