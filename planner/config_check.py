"""Is a config.json one we can count from? Every size it names must be a whole number within reason.

The bounds are far above any published model; they stop a broken or hostile file from becoming a huge figure.
"""

import json
import re
from typing import Any

from vramplan.planner.errors import BadConfigError

MAX_FILE_BYTES = 10_000_000
MAX_DEPTH = 32
BOUNDS = {
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_hidden_layers": 10_000,
    "num_attention_heads": 100_000,
    "num_key_value_heads": 100_000,
    "head_dim": 100_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 1_000_000_000,
    "num_experts": 100_000,
    "num_local_experts": 100_000,
    "n_routed_experts": 100_000,
    "moe_intermediate_size": 10_000_000,
    "d_model": 1_000_000,
    "d_ff": 10_000_000,
    "d_kv": 100_000,
    "num_layers": 10_000,
    "num_decoder_layers": 10_000,
    "encoder_layers": 10_000,
    "decoder_layers": 10_000,
    "encoder_ffn_dim": 10_000_000,
    "decoder_ffn_dim": 10_000_000,
    "n_embd": 1_000_000,
    "n_layer": 10_000,
    "n_head": 100_000,
    "n_inner": 10_000_000,
    "n_positions": 1_000_000_000,
    "dim": 1_000_000,
    "hidden_dim": 10_000_000,
    "ffn_dim": 10_000_000,
    "n_layers": 10_000,
    "n_heads": 100_000,
}
"""Largest value of each size, under every name the supported architectures give it."""

BOUNDS |= dict.fromkeys(("sliding_window", "sliding_window_pattern", "no_rope_layer_interval"), 1_000_000_000)

MAY_BE_ZERO = frozenset(
    {
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "sliding_window",
        "sliding_window_pattern",
        "no_rope_layer_interval",
    }
)
"""Sizes some published configs set to 0 for: none."""

MAX_REPEATS = 10_000
_REPEATS = re.compile(r"(?:^|_)(?:layer|depth|block|stage|group)s?$")
"""Names of counts that a class builds a module for each of, wherever in the config they stand."""

KINDS: dict[str, tuple[type, str]] = {
    "rope_scaling": (dict, "an object"),
    "rope_parameters": (dict, "an object"),
    "text_config": (dict, "an object"),
    "architectures": (list, "a list"),
    "layer_types": (list, "a list"),
    "no_rope_layers": (list, "a list"),
    "tie_word_embeddings": (bool, "true or false"),
    "attention_bias": (bool, "true or false"),
    "mlp_bias": (bool, "true or false"),
    "use_sliding_window": (bool, "true or false"),
    "max_window_layers": (int, "a whole number"),
}
"""Fields that decide weights or layer kinds, and what each must be where it is not null."""


def parse_config(content: bytes, where: str) -> dict[str, Any]:
    """config.json's content as an object whose sizes make sense.

    Args:
        content: the file as it is.
        where: the file's name, for the error.

    Infinity, which published configs hold though JSON has no word for it, becomes the text "Infinity".

    Raises:
        BadConfigError: too large, not JSON, not an object, too deep, no model_type, or a size out of bounds.
    """
    if len(content) > MAX_FILE_BYTES:
        raise _bad(where, f"is larger than {MAX_FILE_BYTES // 10**6} MB, so it is no model config")
    try:
        config = json.loads(content, parse_constant=str)
    except RecursionError:
        raise _bad(where, "is nested too deeply") from None
    except ValueError as problem:
        raise _bad(where, f"is not JSON: {str(problem)[:120]}") from None
    if not isinstance(config, dict):
        raise _bad(where, "is not a JSON object")
    if _depth(config, MAX_DEPTH) > MAX_DEPTH:
        raise _bad(where, f"is nested more than {MAX_DEPTH} levels deep")
    check_sizes(config, where)
    return config


def check_sizes(config: dict[str, Any], where: str) -> None:
    """Refuse a config without a model_type or with a size that is no positive whole number in bounds.

    Raises:
        BadConfigError: naming the field, its value and the bound.
    """
    if not isinstance(config.get("model_type"), str) or not config["model_type"]:
        raise _bad(where, "has no model_type, so its architecture is unknown")
    parts = [("", config)]
    parts += [(f"{name}.", part) for name, part in config.items() if isinstance(part, dict) and "config" in name]
    for prefix, fields in parts:
        for name, bound in BOUNDS.items():
            sizes = fields.get(name)
            for size in sizes if isinstance(sizes, list) else [] if sizes is None else [sizes]:
                _check_size(f"{prefix}{name}", size, bound, where, least=0 if name in MAY_BE_ZERO else 1)
        for name, (kind, words) in KINDS.items():
            if fields.get(name) is not None and not isinstance(fields[name], kind):
                raise _bad(where, f"has {prefix}{name} = {str(fields[name])[:40]!r}, which is not {words}")
        _check_layer_lists(fields, where)
    _check_repeats(config, where)


DECODER_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")


def check_decoder(config: dict[str, Any], where: str) -> None:
    """Refuse a Llama-shaped config that leaves out a size, or whose heads do not divide.

    Raises:
        BadConfigError: naming the field.
    """
    for name in DECODER_SIZES:
        if config.get(name) is None:
            raise _bad(where, f"has no {name}, which {config['model_type'][:60]!r} needs")
    for name in BOUNDS:
        if isinstance(config.get(name), list):
            raise _bad(where, f"has a list of {name}, where {config['model_type'][:60]!r} has one")
    hidden, heads, keys = config["hidden_size"], config["num_attention_heads"], config.get("num_key_value_heads")
    if config.get("head_dim") is None and hidden % heads:
        raise _bad(where, f"has hidden_size {hidden}, which does not divide into {heads} attention heads")
    if keys and heads % keys:
        raise _bad(where, f"has {heads} attention heads, which do not divide over {keys} key/value heads")


def _check_size(name: str, value: Any, bound: int, where: str, *, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise _bad(where, f"has {name} = {str(value)[:40]!r}, which is not a whole number")
    if not least <= value <= bound:
        raise _bad(where, f"has {name} = {str(value)[:40]}; it must be between {least} and {bound:,}")


def _check_repeats(value: Any, where: str, name: str = "") -> None:
    if isinstance(value, dict):
        for inner, each in value.items():
            _check_repeats(each, where, inner)
    elif isinstance(value, list):
        for each in value:
            _check_repeats(each, where, name)
    elif isinstance(value, (int, float)) and value > MAX_REPEATS and _REPEATS.search(name):
        raise _bad(where, f"has {name[:80]} = {str(value)[:40]}; it must be at most {MAX_REPEATS:,}")


def _check_layer_lists(fields: dict[str, Any], where: str) -> None:
    """Lists with one entry per layer have as many as there are layers."""
    layers = fields.get("num_hidden_layers")
    for name in ("layer_types", "no_rope_layers"):
        listed = fields.get(name)
        if listed and layers is not None and len(listed) != layers:
            raise _bad(where, f"has {len(listed)} {name} for {layers} layers")


def _depth(value: Any, limit: int) -> int:
    """How deeply values nest; stops counting just past the limit."""
    level, depth = [value], 0
    while level and depth <= limit:
        depth += 1
        inner = [each for each in level if isinstance(each, (dict, list))]
        level = [part for each in inner for part in (each.values() if isinstance(each, dict) else each)]
    return depth


def _bad(where: str, what: str) -> BadConfigError:
    return BadConfigError(f"{where} {what}", remedy="check the file, or download config.json from the Hub again")
