"""A tiny Llama as files: its config, and a safetensors file with a real header and zeroed data."""

import json
import struct
from pathlib import Path
from typing import Any

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 256,
    "torch_dtype": "bfloat16",
}
# embed and head 100 x 64; per layer q, o 64 x 64, k, v 32 x 64, three MLP matrices, two norms; the last norm
LLAMA_PARAMS = 2 * 6400 + 2 * (2 * 4096 + 2 * 2048 + 3 * 8192 + 2 * 64) + 64


def write_config(where: Path, config: Any) -> Path:
    (where / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return where


def header_bytes(tensors: dict[str, tuple[str, list[int]]]) -> bytes:
    """A safetensors file with zeroed data."""
    sizes = {"BF16": 2, "F32": 4, "F16": 2}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        start, length = end, sizes[dtype]
        for size in shape:
            length *= size
        end = start + length
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    content = json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + bytes(end)


def llama_tensors(dtype: str = "F16") -> dict[str, tuple[str, list[int]]]:
    tensors = {"model.embed_tokens.weight": (dtype, [100, 64]), "lm_head.weight": (dtype, [100, 64])}
    for layer in range(2):
        prefix = f"model.layers.{layer}."
        for name in ("q_proj", "o_proj"):
            tensors[f"{prefix}self_attn.{name}.weight"] = (dtype, [64, 64])
        for name in ("k_proj", "v_proj"):
            tensors[f"{prefix}self_attn.{name}.weight"] = (dtype, [32, 64])
        for name in ("gate_proj", "up_proj"):
            tensors[f"{prefix}mlp.{name}.weight"] = (dtype, [128, 64])
        tensors[f"{prefix}mlp.down_proj.weight"] = (dtype, [64, 128])
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{prefix}{name}.weight"] = (dtype, [64])
    return {**tensors, "model.norm.weight": (dtype, [64])}
