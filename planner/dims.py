"""A model's sizes under one-letter names: the variables of memory programs.

B micro batch, S sequence, N valid labels, h hidden, f intermediate, H heads, K key/value heads, d head_dim, V
vocabulary, r rank; P virtual tokens, b bottleneck, e hidden size of a prompt encoder, L layers of a prefix, W numbers
in one of its tokens, t rows of the embeddings that train, where the method has them; C classes of a classifier, D
tokens of a decoder that has an encoder; Q documents of a packed row.
Derived: what kernels round or fuse them to, T = S + P, and U = D + P.
"""

from typing import Any

from vramplan.planner.memory.groups import round_up

BASE = ("B", "S", "N", "h", "f", "H", "K", "d", "V", "r")
OF_METHOD = {"adapter": ("b",), "prefix": ("P", "L", "W"), "prompt": ("P",), "ptuning": ("P", "e")}
"""Variables that only some methods have."""
OF_TASK = {"classification": ("C",), "seq2seq": ("D",)}
"""Variables that only some tasks have."""

FIELDS = {
    "h": ("hidden_size",),
    "f": ("intermediate_size",),
    "H": ("num_attention_heads",),
    "V": ("vocab_size",),
}
"""Config fields behind the model's variables, in transformers' names."""

FLASH_ROWS = 128
"""FlashAttention's backward takes rows in blocks of as many."""


def model_dims(config: dict[str, Any]) -> dict[str, int]:
    """h, f, H, K, d, V of a decoder's config; K defaults to H and d to h / H, as transformers has it.

    Raises:
        KeyError: a field is missing.

    >>> dims = model_dims({"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
    ...                    "num_key_value_heads": 8, "vocab_size": 128256})
    >>> dims["K"], dims["d"]
    (8, 128)
    """
    dims = {name: int(config[fields[0]]) for name, fields in FIELDS.items()}
    dims["K"] = int(config.get("num_key_value_heads") or dims["H"])
    dims["d"] = int(config.get("head_dim") or dims["h"] // dims["H"])
    return dims


def language_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's part of a config; a multimodal one nests it, and some with an encoder their decoder's.

    >>> language_config({"text_config": {"vocab_size": 10}, "image_token_index": 3})["vocab_size"]
    10
    """
    nested = config.get("text_config") or config.get("decoder")
    return {**config, **(nested if isinstance(nested, dict) else {})}


def has_fixed_depth(config: dict[str, Any]) -> bool:
    """Whether tensors outside the layers are as wide as there are layers: the per-layer inputs of Gemma 3n and 4."""
    return bool(language_config(config).get("hidden_size_per_layer_input"))


def window_of(config: dict[str, Any]) -> int | None:
    """How far sliding or chunked attention reaches; None: the config has none.

    >>> window_of({"sliding_window": 4096}), window_of({"local_attention": 128}), window_of({})
    (4096, 64, None)
    """
    text = language_config(config)
    if isinstance(text.get("local_attention"), int):  # both sides together (ModernBERT)
        return int(text["local_attention"]) // 2
    windows = [text.get(name) for name in ("sliding_window", "attention_chunk_size")]
    return next((window for window in windows if isinstance(window, int)), None)


def flash_head_dim(head_dim: int) -> int:
    """What FlashAttention's backward pads head_dim to (flash-attention csrc/flash_attn/flash_api.cpp, mha_bwd).

    >>> flash_head_dim(80), flash_head_dim(160)
    (96, 192)
    """
    return round_up(head_dim, 32 if head_dim <= 128 else 64)


def with_derived(dims: dict[str, int]) -> dict[str, int]:
    """Base variables plus: S+1 and S-1 (shifted labels), S128 and dr (FlashAttention's padding of rows and head_dim),
    S16 and S32 (the memory-efficient kernel's padding of masks and of logsumexp), qkv (rows of a fused projection);
    the same of D, and with virtual tokens of T and U, the rows they make with the sequence and with D; B+1 (ends of
    rows taken together); chunk, the rows of logits that Liger's loss makes at a time (planner/trace/liger.py)."""
    out = dict(dims)
    lengths = {"S": dims["S"]}
    if "P" in dims:
        lengths["T"] = out["T"] = dims["S"] + dims["P"]
    if "D" in dims:
        lengths["D"] = dims["D"]
        if "P" in dims:
            lengths["U"] = out["U"] = dims["D"] + dims["P"]
    for name, length in lengths.items():
        out[f"{name}+1"] = length + 1
        out[f"{name}-1"] = length - 1
        out[f"{name}128"] = round_up(length, FLASH_ROWS)
        out[f"{name}16"] = round_up(length, 16)
        out[f"{name}32"] = round_up(length, 32)
    if "c" in dims:
        out["c+1"] = dims["c"] + 1
    head_dim = dims.get("d")
    if head_dim is not None:
        out["dr"] = flash_head_dim(head_dim)
        out["qkv"] = (dims["H"] + 2 * dims["K"]) * head_dim
    if "h" in dims and "V" in dims:
        chunk = -(-dims["B"] * dims["S"] // -(-dims["V"] // dims["h"]))
        out["chunk"] = min(1 << (chunk - 1).bit_length(), dims["B"] * dims["S"])
    out["B+1"] = dims["B"] + 1
    if "Q" in dims:
        out["Q+1"] = dims["Q"] + 1
    return out
