"""Which memory program answers for a model in a setup, and at which sizes to replay it."""

from typing import Any

from vramplan.planner.attention import before_ampere, cudnn_first
from vramplan.planner.device import Device, Route
from vramplan.planner.dims import has_fixed_depth, language_config, model_dims, window_of
from vramplan.planner.errors import NoProgramError, UnsupportedError
from vramplan.planner.memory.expert_adapters import converted
from vramplan.planner.memory.last_blocks import stack_depths, stack_of
from vramplan.planner.memory.mode import mode_of
from vramplan.planner.memory.one_device import computing_setup
from vramplan.planner.memory.recurrence import own_lengths, program_length
from vramplan.planner.memory.stack import shortest_stack, shortest_stack_layers
from vramplan.planner.memory.static_methods import is_adaptable, is_embedding, matches, prefix_layers, prefix_width
from vramplan.planner.methods import Lora, Method, Qlora, trainable_blocks, virtual_tokens
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import Mode, ProgramKey, Structure
from vramplan.planner.programs.program import FROZEN, STACKS
from vramplan.planner.tasks import check_task
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.workload import Workload

LLAMA_SHAPED = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "smollm3",
    "olmo2",
    "granite",
)
"""Model types whose sizes are h, f, H, K, d, V."""

STRUCTURAL: dict[str, Any] = {
    "hidden_act": None,
    "hidden_activation": None,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "mlp_bias": False,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "use_bidirectional_attention": None,
}
"""Config fields that decide which operations run, with transformers' default where a config leaves them out."""

_METHOD_FIELDS = {"num_virtual_tokens": "P", "bottleneck_size": "b", "encoder_hidden_size": "e"}
"""A method's sizes and their variables (planner/dims.py)."""

IRRELEVANT = frozenset(
    (
        "architectures",
        "auto_map",
        "bos_token_id",
        "cache_implementation",
        "decoder_start_token_id",
        "dtype",
        "eos_token_id",
        "id2label",
        "num_labels",
        "initializer_range",
        "label2id",
        "pad_token_id",
        "torch_dtype",
        "transformers_version",
        "use_cache",
        "_name_or_path",
    )
)
"""Config fields that change no allocation."""


def program_key(
    model: ModelSpec, workload: Workload, setup: TrainingSetup, route: Route, device: Device | None
) -> ProgramKey:
    """The key of the program that prices a setup.

    Args:
        device: the one that runs it, where one is named: its sdpa may prefer cuDNN (planner/attention.py).

    Raises:
        NoProgramError: a model without a language-model head, or whose layers cannot be told apart.
        UnsupportedError: a mode that is not priced yet.
    """
    setup = computing_setup(setup)
    check_task(model, workload.task)
    if workload.sequence_length < 2:
        raise UnsupportedError(
            "a sequence of one token has no next token to learn", remedy="--sequence-length 2 or more"
        )
    own = not has_named_sizes(model)
    structure = _own_structure(model, workload, setup) if own else _structure(model, workload, setup)
    mode = mode_of(setup, workload, route)
    if isinstance(setup.method, (Lora, Qlora)) and _names_every_linear(setup.method, model):
        mode = mode.model_copy(update={"target_modules": "all-linear"})
    if route == "cuda" and mode.attention == "sdpa":
        if cudnn_first(device) and _told_apart(model, structure, mode):
            mode = mode.model_copy(update={"cudnn_first": True})
        in_half = mode.mixed_precision != "no" or mode.dtype != "fp32"
        if before_ampere(device) and in_half:
            mode = mode.model_copy(update={"before_ampere": True})
    return ProgramKey(structure=structure, mode=mode)


def _names_every_linear(method: Lora | Qlora, model: ModelSpec) -> bool:
    """Whether a list of targets is all-linear in other words: one program serves both."""
    everything = method.model_copy(update={"target_modules": "all-linear"})
    if converted(model, method) != converted(model, everything):
        return False
    named, all_linear = (
        [matches(weight, model, targets) and (is_adaptable(weight) or is_embedding(weight)) for weight in model.weights]
        for targets in (method.target_modules, everything.target_modules)
    )
    return named == all_linear


def _told_apart(model: ModelSpec, structure: Structure, mode: Mode) -> bool:
    """Whether cuDNN's attention runs where FlashAttention would not: with a mask, as padding, windows and prefixes need
    it, or heads of two sizes."""
    text = model.config.get("text_config") or model.config
    two_sizes = text.get("v_head_dim") not in (None, text.get("head_dim"), text.get("qk_head_dim"))
    return mode.padded or structure.windowed or mode.method == "prefix" or two_sizes


def has_named_sizes(model: ModelSpec) -> bool:
    """Whether one program serves every size of the model: a Llama-shaped family, without the rare options that add
    sizes or operations of their own."""
    config = model.config
    if config.get("text_config"):
        return False
    rope = config.get("rope_parameters") or {}
    partial = rope.get("partial_rotary_factor", config.get("partial_rotary_factor"))
    plain = partial in (None, 1, 1.0) and not config.get("attention_dropout") and config.get("pretraining_tp", 1) == 1
    return model.model_type in LLAMA_SHAPED and plain


def layer_kinds(model: ModelSpec, method: Method | None = None) -> tuple[str, ...]:
    """The kind of every layer, and whether a method leaves it frozen below the last blocks. For Llama-shaped models its
    attention, and whether it has rotary positions; for others also which weights it has, which tells dense from
    mixture-of-experts and attention from state-space layers."""
    kinds = _kinds(model)
    blocks = None if method is None else trainable_blocks(method)
    frozen = 0 if blocks is None else len(kinds) - blocks
    return tuple(f"{FROZEN}:{kind}" if layer < frozen else kind for layer, kind in enumerate(kinds))


def _kinds(model: ModelSpec) -> tuple[str, ...]:
    if not has_named_sizes(model):
        return _kinds_by_weights(model)
    config = model.config
    depth = int(config["num_hidden_layers"])
    types = config.get("layer_types") or ["full_attention"] * depth
    rope = config.get("no_rope_layers") or [1] * depth
    if len(types) != depth or len(rope) != depth:
        raise NoProgramError(f"{model.repo_id}: layer_types does not have num_hidden_layers ({depth}) entries")
    return tuple(kind if has_rope else f"{kind}/nope" for kind, has_rope in zip(types, rope, strict=True))


def _kinds_by_weights(model: ModelSpec) -> tuple[str, ...]:
    depths = stack_depths(model)
    kinds = {stack: _kinds_of_stack(model, stack, depth) for stack, depth in depths.items()}
    if len(kinds) == 1:
        return kinds.popitem()[1]
    return tuple(f"{half}:{kind}" for half, stack in zip(STACKS, kinds, strict=True) for kind in kinds[stack])


def _kinds_of_stack(model: ModelSpec, stack: str, depth: int) -> tuple[str, ...]:
    has: list[list[Any]] = [[] for _ in range(depth)]
    for weight in model.weights:
        for layer in weight.layers if stack_of(weight) == stack else ():
            has[layer].append((weight.name, weight.shape))
    letters: dict[tuple[Any, ...], str] = {}
    kinds = [letters.setdefault(tuple(names), f"k{len(letters)}") for names in has]
    half = next((model.config[name] for name in STACKS if name in stack.split(".") and name in model.config), None)
    types = language_config(half if isinstance(half, dict) else model.config).get("layer_types") or []
    if len(types) == depth:
        kinds = [f"{kind}:{attention}" for kind, attention in zip(kinds, types, strict=True)]
    return tuple(kinds)


def replay_values(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> dict[str, int]:
    """The variables' values: the model's sizes, the batch, and what the method has of its own."""
    values = model_dims(model.config) if has_named_sizes(model) else {}
    batch, length = setup.micro_batch_size, workload.sequence_length
    values["B"], values["S"] = (1, batch * length) if setup.packing else (batch, length)
    if setup.packing:
        values["Q"] = batch
    values |= own_lengths(model.model_type, model.config, length)
    if workload.num_labels is not None:
        values["C"] = workload.num_labels
    if workload.target_length is not None:
        values["D"] = workload.target_length
    values["N"] = max(1, round(workload.valid_label_fraction * batch * (length - 1)))
    method = setup.method
    values["r"] = getattr(method, "r", 1)
    values |= {
        variable: int(getattr(method, field)) for field, variable in _METHOD_FIELDS.items() if hasattr(method, field)
    }
    tokens = getattr(method, "trainable_token_indices", ())
    if tokens:
        values["t"] = len(tokens)
    if method.kind == "prefix":
        values["L"] = prefix_layers(model)
        values["W"] = prefix_width(model.config, values["L"])
    return values


def _structure(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> Structure:
    """A family whose sizes are variables: one program serves every size of it."""
    config = model.config
    dims = model_dims(config)
    slides, windowed = _window(config, workload, virtual_tokens(setup.method))
    fields = {name: config.get(name, default) for name, default in STRUCTURAL.items()}
    fields["attn_logit_softcapping"] = fields["attn_logit_softcapping"] is not None
    fields["final_logit_softcapping"] = fields["final_logit_softcapping"] is not None
    fields["slides"] = slides
    return Structure(
        model_type=model.model_type,
        fields=fields,
        kinds=shortest_stack(layer_kinds(model, setup.method)),
        heads="mha" if dims["K"] == dims["H"] else "mqa" if dims["K"] == 1 else "gqa",
        aligned_heads=dims["d"] % 8 == 0 and dims["d"] <= 256,
        single_row=setup.micro_batch_size == 1 or setup.packing,
        windowed=windowed,
    )


def _own_structure(model: ModelSpec, workload: Workload, setup: TrainingSetup) -> Structure:
    """Any other model: its own config, short of most of its layers; batch, sequence and rank are the variables."""
    kinds = layer_kinds(model, setup.method)
    kept = tuple(range(len(kinds))) if has_fixed_depth(model.config) else shortest_stack_layers(kinds)
    return Structure(
        model_type=model.model_type,
        fields={},
        kinds=tuple(kinds[layer] for layer in kept),
        single_row=setup.micro_batch_size == 1 or setup.packing,
        windowed=_window(model.config, workload, virtual_tokens(setup.method))[1],
        config={name: value for name, value in model.config.items() if name not in IRRELEVANT},
        length=program_length(model.model_type, model.config, workload.sequence_length),
        kept=kept,
    )


def _window(config: dict[str, Any], workload: Workload, num_virtual_tokens: int) -> tuple[bool, bool]:
    """Whether layers slide, and whether the sequence reaches their window."""
    config = language_config(config)
    window = window_of(config)
    types = config.get("layer_types")
    local = not types or any(word in str(kind) for kind in types for word in ("sliding", "chunked"))
    slides = window is not None and local
    return slides, bool(slides and workload.sequence_length + num_virtual_tokens >= int(window or 0))
