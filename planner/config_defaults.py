"""config.json completed: the library's defaults for what the file leaves out, without the library.

The catalogue carries every model_type's defaults; the few fields transformers derives from others are derived here
for the families of ``weight_templates`` (transformers/models/<family>/configuration_*.py, ``__post_init__``).
"""

from collections.abc import Callable
from typing import Any

from vramplan.planner.dtypes import TORCH_NAMES, Dtype

FULL, SLIDING = "full_attention", "sliding_attention"


def complete_config(config: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The config with every default field, and for the known families the derived ones.

    >>> complete_config({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4}, {})["head_dim"]
    16
    """
    whole = {**defaults, **config}
    derive = _LAYER_TYPES.get(config["model_type"])
    if derive is not None and not whole.get("layer_types"):
        whole["layer_types"] = [FULL if derive(whole, layer) else SLIDING for layer in _layers(whole)]
    if config["model_type"] in _SPLIT_HEADS and whole.get("head_dim") is None:
        whole["head_dim"] = whole["hidden_size"] // whole["num_attention_heads"]
    if "num_key_value_heads" in whole and whole["num_key_value_heads"] is None:
        whole["num_key_value_heads"] = whole.get("num_attention_heads")
    if config["model_type"] == "smollm3" and not whole.get("no_rope_layers"):
        interval = whole.get("no_rope_layer_interval") or 4
        whole["no_rope_layers"] = [int((layer + 1) % interval != 0) for layer in _layers(whole)]
    if config["model_type"] in _WINDOW_SWITCH and not whole.get("use_sliding_window"):
        whole["sliding_window"] = None
    if "rope_parameters" in defaults and not whole["rope_parameters"]:
        whole["rope_parameters"] = _rope_parameters(whole)
    return whole


def named_dtype(config: dict[str, Any]) -> Dtype | None:
    """The dtype config.json names: ``dtype``, or ``torch_dtype`` before transformers 5; None when it names none."""
    for fields in (config, config.get("text_config")):
        named = isinstance(fields, dict) and (fields.get("dtype") or fields.get("torch_dtype"))
        if named:
            return TORCH_NAMES.get(str(named).removeprefix("torch."))
    return None


def _layers(config: dict[str, Any]) -> range:
    return range(config["num_hidden_layers"])


def _rope_parameters(config: dict[str, Any]) -> dict[str, Any]:
    """What transformers 5 makes of ``rope_theta`` and ``rope_scaling`` (modeling_rope_utils.py)."""
    scaling: dict[str, Any] = config.get("rope_scaling") or {}
    theta = config.get("rope_theta") or _ROPE_THETA.get(config["model_type"], 10_000.0)
    scaled = {**scaling, "rope_theta": theta, "rope_type": scaling.get("rope_type") or scaling.get("type") or "default"}
    if config["model_type"] == "phi3":
        scaled = {"partial_rotary_factor": config.get("partial_rotary_factor", 1.0), **scaled}
    if config["model_type"] not in _ROPE_PER_KIND:
        return scaled
    local = config.get("rope_local_base_freq") or _ROPE_PER_KIND[config["model_type"]]
    return {FULL: scaled, SLIDING: {"rope_theta": local or theta, "rope_type": "default"}}


def _qwen_full(config: dict[str, Any], layer: int) -> bool:
    windowed = config.get("use_sliding_window") and config.get("sliding_window") is not None
    return not (windowed and layer >= config.get("max_window_layers", 0))


def _every(interval: int) -> Callable[[dict[str, Any], int], bool]:
    return lambda config, layer: (layer + 1) % (config.get("sliding_window_pattern") or interval) == 0


def _smollm_full(config: dict[str, Any], layer: int) -> bool:
    has_rope = (layer + 1) % (config.get("no_rope_layer_interval") or 4) != 0
    given = config.get("no_rope_layers")
    if given:
        has_rope = bool(given[layer])
    return not (config.get("use_sliding_window") and config.get("sliding_window") is not None and not has_rope)


_ROPE_THETA = {"gemma3_text": 1_000_000.0, "smollm3": 2_000_000.0, "olmo3": 500_000.0}
_ROPE_PER_KIND = {"gemma3_text": 10_000.0, "olmo3": None}
"""Families whose sliding layers rotate with a base of their own; None: with the same."""
_WINDOW_SWITCH = ("qwen2", "qwen3")
_SPLIT_HEADS = ("llama", "mistral")
_LAYER_TYPES: dict[str, Callable[[dict[str, Any], int], bool]] = {
    "qwen2": _qwen_full,
    "qwen3": _qwen_full,
    "gemma2": lambda config, layer: layer % 2 == 1,
    "gemma3_text": _every(6),
    "olmo3": lambda config, layer: layer % 4 == 3,
    "smollm3": _smollm_full,
}
"""model_type -> whether a layer attends to everything; families not named have no layer_types of their own."""
