"""What the first step shows that loading cannot: gradients that arrive, and the attention kernel that really ran."""

from collections.abc import Iterator
from typing import Any

_KERNELS = {
    "ScaledDotProductFlashAttentionForCpu": "flash (CPU)",
    "ScaledDotProductFlashAttention": "flash",
    "ScaledDotProductEfficientAttention": "memory-efficient",
    "ScaledDotProductCudnnAttention": "cuDNN",
    "ScaledDotProductFusedAttentionOverrideable": "fused",
    "FlashAttn": "flash_attention_2",
}
"""How autograd's nodes begin their names, and the kernel each is the backward of."""


def check_gradients(model: Any) -> tuple[str, ...]:
    """One sentence for every way the first backward pass went wrong: no gradient anywhere, or LoRA's signature broken.

    While B is zero, B A = 0 and the gradient of A, which is B^T times something, is zero too; the gradient of B is not
    (Hu et al., 2021, arXiv:2106.09685, section 4.1).
    """
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not any(_non_zero(parameter) for parameter in trainable.values()):
        return ("no trainable parameter has a gradient after the first backward pass",)
    return tuple(_lora(trainable))


def _lora(trainable: dict[str, Any]) -> Iterator[str]:
    pairs = {name: name.replace(".lora_B.", ".lora_A.") for name in trainable if ".lora_B." in name}
    if pairs and not any(_non_zero(trainable[b]) for b in pairs):
        yield "no lora_B has a gradient after the first backward pass"
    for b, a in pairs.items():
        if a in trainable and not bool(_own(trainable[b]).any()) and _non_zero(trainable[a]):
            yield f"{a} has a gradient while {b} is zero"
            return


def attention_kernels(hidden: Any) -> str | None:
    """The attention kernels in the graph behind a tensor, in words; None where no attention there needs gradients.

    Args:
        hidden: the output of a decoder layer in a training forward pass.
    """
    names = set(_node_names(hidden.grad_fn))
    kernels = {word for start, word in _KERNELS.items() for name in names if name.startswith(f"{start}Backward")}
    kernels |= {_KERNELS["FlashAttn"] for name in names if name.startswith("FlashAttn")}
    if not kernels and any(name.startswith("SoftmaxBackward") for name in names):
        kernels = {"softmax, step by step"}
    return ", ".join(sorted(kernels)) or None


def _node_names(root: Any) -> Iterator[str]:
    seen, stack = set(), [root]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield type(node).__name__
        stack.extend(following for following, _ in node.next_functions)


def _non_zero(parameter: Any) -> bool:
    return parameter.grad is not None and bool(_own(parameter.grad).any())


def _own(tensor: Any) -> Any:
    """A rank's own part of a tensor that several share."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
