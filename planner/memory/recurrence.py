"""Layers with a state instead of attention: Mamba, gated delta rules, lightning attention.

Without the packages mamba-ssm, causal-conv1d and flash-linear-attention, which compile against one CUDA, transformers
runs them in plain torch, and that is what is traced. Two kinds (transformers/models/<type>/modeling_*.py):

    looped     one step a token or a chunk: the number of operations is the sequence's, so a program is of one length
    chunked    Mamba-2's scan over whole chunks: sizes follow c = ceil(S / chunk_size)
"""

from typing import Any

from vramplan.planner.model_spec import ModelSpec

LOOPED = frozenset(
    (
        "falcon_mamba",
        "jamba",
        "kimi_linear",
        "mamba",
        "minimax",
        "olmo_hybrid",
        "qwen3_5",
        "qwen3_5_moe",
        "qwen3_5_moe_text",
        "qwen3_5_text",
        "qwen3_next",
        "recurrent_gemma",
        "rwkv",
        "xlstm",
        "zamba",
    )
)
CHUNKED = frozenset(("bamba", "falcon_h1", "granitemoehybrid", "mamba2", "nemotron_h", "zamba2"))

NO_LORA = ("out_proj", "conv1d")
NO_LORA_BECAUSE = "PEFT puts no LoRA on out_proj or conv1d of it, whose kernels read those weights themselves"
NO_LORA_TYPES = frozenset(("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"))
"""Modules PEFT refuses to put LoRA on, and the types it refuses them for: their kernels read those weights themselves
(peft/tuners/tuners_utils.py, _check_lora_target_modules_mamba)."""


_CONVOLUTIONS = ("conv_kernel", "mamba_d_conv", "conv_L_cache", "linear_conv_kernel_dim")


def own_lengths(model_type: str, config: dict[str, Any], sequence_length: int) -> dict[str, int]:
    """Variables of a recurrent model's own: Sk, a row padded for the short convolution before the scan; c, its chunks;
    and of one that attends to a row compressed: S/4, its whole groups of four, one more that is masked, and both the
    row and its groups.

    >>> own_lengths("mamba2", {"chunk_size": 256, "conv_kernel": 4}, 1000)
    {'Sk': 1003, 'c': 4}
    """
    own = {}
    kernel = next((config[name] for name in _CONVOLUTIONS if config.get(name)), None)
    if kernel is not None:
        own["Sk"] = sequence_length + int(kernel) - 1
    chunks = num_chunks(model_type, config, sequence_length)
    if chunks is not None:
        own["c"] = chunks
    for rate in _compress_rates(config):
        own[f"S/{rate}"] = sequence_length // rate
        own[f"S/{rate}+1"] = sequence_length // rate + 1
        own[f"S+S/{rate}"] = sequence_length + sequence_length // rate
        own[f"S+S/{rate}+1"] = sequence_length + sequence_length // rate + 1
    return own


def _compress_rates(config: dict[str, Any]) -> tuple[int, ...]:
    """Tokens that one entry of compressed attention stands for (transformers/models/deepseek_v4)."""
    rates = config.get("compress_rates")
    return tuple(sorted({int(rate) for rate in rates.values()})) if isinstance(rates, dict) else ()


def num_chunks(model_type: str, config: dict[str, Any], sequence_length: int) -> int | None:
    """Chunks of a row in Mamba-2's scan; None: the model has none.

    >>> num_chunks("mamba2", {"chunk_size": 256}, 1000)
    4
    """
    size = config.get("mamba_chunk_size") or config.get("chunk_size")
    return -(-sequence_length // int(size)) if model_type in CHUNKED and size else None


def program_length(model_type: str, config: dict[str, Any], sequence_length: int) -> int | None:
    """The one length a program of the model is for; None: any. A scan over a single chunk takes a path of its own."""
    alone = model_type in LOOPED or num_chunks(model_type, config, sequence_length) == 1
    alone = alone or any(sequence_length < 2 * rate for rate in _compress_rates(config))
    return sequence_length if alone else None


def is_recurrent(model: ModelSpec) -> bool:
    """Whether some of the model's layers are recurrent."""
    recurrent = model.model_type in LOOPED | CHUNKED
    return recurrent and any("conv1d" in weight.name or "linear_attn" in weight.name for weight in model.weights)
