"""One operation of each kernel a plan needs, on its device: ``python -P -m vramplan.executor.smoke NAMES DEVICE``.

A child process of preflight: a library that is installed may still have no kernel for this device, and says so only
when it is used. Prints one JSON object: operation -> null, or why it failed.
"""

import json
import sys
from collections.abc import Callable
from typing import Any


def main(names: str, device: str) -> int:
    """Try every operation named, comma-separated."""
    results: dict[str, str | None] = {}
    for name in names.split(","):
        try:
            OPERATIONS[name](device)
            results[name] = None
        except Exception as error:
            results[name] = f"{type(error).__name__}: {(str(error).strip() or 'no word').splitlines()[0]}"
    sys.stdout.write(json.dumps(results) + "\n")
    return 0


def _matmul(device: str) -> None:
    import torch

    ones = torch.ones(64, 64, device=device)
    assert float((ones @ ones).sum()) == 64.0**3


def _four_bit(device: str) -> None:
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32).to(device)
    _forward_and_back(layer, torch.randn(2, 64, device=device, requires_grad=True))


def _eight_bit(device: str) -> None:
    import bitsandbytes
    import torch

    layer = bitsandbytes.nn.Linear8bitLt(64, 64, bias=False, has_fp16_weights=False).to(device)
    _forward_and_back(layer, torch.randn(2, 64, device=device, dtype=torch.float16, requires_grad=True))


def _eight_bit_optimizer(device: str) -> None:
    import bitsandbytes
    import torch

    weight = torch.nn.Parameter(torch.ones(4096, device=device))
    weight.grad = torch.ones_like(weight)
    bitsandbytes.optim.AdamW8bit([weight], lr=0.1).step()
    assert float(weight.detach().max()) < 1.0


def _flash_attention_2(device: str) -> None:
    import torch
    from flash_attn import flash_attn_func

    query = torch.randn(1, 16, 2, 64, device=device, dtype=torch.bfloat16, requires_grad=True)
    flash_attn_func(query, query, query, causal=True).sum().backward()


def _forward_and_back(layer: Any, inputs: Any) -> None:
    layer(inputs).sum().backward()
    assert bool(inputs.grad.any())


OPERATIONS: dict[str, Callable[[str], None]] = {
    "matmul": _matmul,
    "4-bit": _four_bit,
    "8-bit": _eight_bit,
    "8-bit optimizer": _eight_bit_optimizer,
    "flash attention": _flash_attention_2,
}

if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
