"""What each method adds to a model: its parameters, counted tensor by tensor.

LoRA      A is (r, in), B is (out, r): r (in + out) a linear (Hu et al., 2021, section 4.1)
adapter   down (b, h) and up (h, b) with biases: 2 h b + b + h a bottleneck (Houlsby et al., 2019, section 2.1)
IA3       one factor an output channel, or an input channel of a feed-forward target (Liu et al., 2022, section 3.3)
prefix    P rows of a key and a value of every layer: P x layers x 2 x K d (peft/tuners/prefix_tuning/model.py)
prompt    P rows of the hidden size (peft/tuners/prompt_tuning/model.py)
p-tuning  the same rows, and an MLP h -> e -> e -> h, or an LSTM and two linears (peft/tuners/p_tuning/model.py)
"""

from collections.abc import Iterator
from typing import Any

from vramplan.planner.dims import language_config
from vramplan.planner.dtypes import BYTES
from vramplan.planner.errors import UsageError
from vramplan.planner.memory.expert_adapters import converted, expert_groups
from vramplan.planner.memory.groups import Group
from vramplan.planner.memory.last_blocks import stack_depths
from vramplan.planner.method_targets import ATTENTION_OUTPUTS, ends_with
from vramplan.planner.methods import Bottleneck, Ia3, LnTuning, Lora, Prefix, Prompt, Ptuning, Qlora, Targets
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import in_tower, is_classification_head
from vramplan.planner.training_setup import TrainingSetup

DORA_MAGNITUDE_BYTES = 4
"""DoRA's magnitude of each output row stays fp32 (Liu et al., 2024, arXiv:2402.09353; planner/trace/adapters.py)."""
LSTM_LAYERS = 2
"""encoder_num_layers, peft/tuners/p_tuning/config.py."""


def adapter_groups(model: ModelSpec, setup: TrainingSetup) -> list[Group]:
    """Every tensor a method adds; all of them train.

    Raises:
        UsageError: a target names nothing the method can sit on.
    """
    method, size = setup.method, BYTES[setup.precision.adapter_dtype]
    match method:
        case Lora() | Qlora():
            return list(_low_rank(model, method, size))
        case Bottleneck():
            return list(_bottlenecks(model, method, size))
        case Ia3():
            return list(_factors(model, method, size))
        case LnTuning():
            return list(_norms(model, method, size))
        case Prefix():
            return [_embeddings(method.num_virtual_tokens, prefix_width(model.config, prefix_layers(model)), size)]
        case Prompt():
            return [_embeddings(method.num_virtual_tokens, hidden_size(model.config), size)]
        case Ptuning():
            return list(_encoder(hidden_size(model.config), method, size))
        case _:
            return []


def _low_rank(model: ModelSpec, method: Lora | Qlora, size: int) -> Iterator[Group]:
    yield from expert_groups(model, method, size)
    for rows, columns, count in targeted(model, method.target_modules, but=converted(model, method).names):
        yield Group(method.r * columns, size, count, shape=(method.r, columns))
        yield Group(rows * method.r, size, count, shape=(rows, method.r))
        if method.use_dora:
            yield Group(rows, DORA_MAGNITUDE_BYTES, count, shape=(rows,))
    for weight in trained_copies(model, method.modules_to_save):
        decays = weight.module != "norm" and not is_bias(weight)
        yield Group(weight.numel, size, weight.count, decays, weight.module == "embedding", weight.shape)
    tokens, table = len(method.trainable_token_indices), input_embeddings(model)
    if tokens and table is not None:
        yield Group(tokens * table.shape[1], size, 1, shape=(tokens, table.shape[1]))


def input_embeddings(model: ModelSpec) -> Weight | None:
    """The table of the vocabulary, which a model's ``get_input_embeddings`` gives."""
    size = language_config(model.config).get("vocab_size")
    tables = [weight for weight in model.weights if is_embedding(weight) and not in_tower(weight.name)]
    return next((weight for weight in tables if weight.shape[0] == size), None)


def trained_copies(model: ModelSpec, modules: tuple[str, ...]) -> Iterator[Weight]:
    """The weights that train as copies, a tied head's among them, which parts from the embeddings then."""
    yield from (weight for weight in model.weights if saved(weight, modules))
    table, head = input_embeddings(model), model.output_embedding
    tied = head is not None and all(weight.name != f"{head}.weight" for weight in model.weights)
    if tied and table is not None:
        own = table.model_copy(update={"name": f"{head}.weight", "module": "linear"})
        yield from (weight for weight in (own,) if saved(weight, modules))


def saved(weight: Weight, modules: tuple[str, ...]) -> bool:
    """Whether a weight belongs to a module that trains as a copy (peft/utils/other.py, _set_trainable)."""
    return any(weight.name.rpartition(".")[0].endswith(module) for module in modules)


def _bottlenecks(model: ModelSpec, method: Bottleneck, size: int) -> Iterator[Group]:
    width = method.bottleneck_size
    but = excluded_modules(method)
    for rows, _, count in targeted(model, method.target_modules, but=but):
        yield Group(width * rows, size, count, shape=(width, rows))
        yield Group(width, size, count, decays=False, shape=(width,))
        yield Group(rows * width, size, count, shape=(rows, width))
        yield Group(rows, size, count, decays=False, shape=(rows,))


def excluded_modules(method: Bottleneck) -> tuple[str, ...]:
    """Ends of names that are no target although they match one: BERT's ``attention.output.dense``, for Pfeiffer."""
    return ATTENTION_OUTPUTS if method.adapter_kind == "pfeiffer" else ()


def _factors(model: ModelSpec, method: Ia3, size: int) -> Iterator[Group]:
    for weight in model.weights:
        if is_adaptable(weight) and any(ends_with(weight.name, target) for target in method.target_modules):
            rows, columns = _rows_and_columns(weight)
            module = weight.name.rpartition(".")[0]
            feedforward = any(module.endswith(end) for end in method.feedforward_modules)
            shape = (1, columns) if feedforward else (rows, 1)
            yield Group(columns if feedforward else rows, size, weight.count, shape=shape)
    _check_matched(model, method.target_modules)


def _norms(model: ModelSpec, method: LnTuning, size: int) -> Iterator[Group]:
    check_norms(model, method.target_modules)
    for weight in model.weights:
        if weight.module == "norm" and any(ends_with(weight.name, target) for target in method.target_modules):
            yield Group(weight.numel, size, weight.count, decays=False, shape=weight.shape)


def check_norms(model: ModelSpec, targets: tuple[str, ...]) -> None:
    """Every target names a norm.

    Raises:
        UsageError: one does not.
    """
    norms = [weight.name for weight in model.weights if weight.module == "norm"]
    for target in targets:
        if not any(ends_with(name, target) for name in norms):
            names = ", ".join(sorted({leaf(name) for name in norms}))
            raise UsageError(
                f"--target {target}: {model.repo_id} has no norm of that name", remedy=f"its norms are: {names}"
            )


def check_biases(model: ModelSpec) -> None:
    """There are bias terms for BitFit to train.

    Raises:
        UsageError: there are none.
    """
    if not any(is_bias(weight) for weight in model.weights):
        raise UsageError(
            f"{model.repo_id} has no bias terms, which is all that BitFit trains",
            remedy="use --method ia3 or --method ln-tuning, which train as little",
        )


def is_bias(weight: Weight) -> bool:
    """A bias term: ``bias`` ends its name (Ben Zaken et al., 2022, section 3)."""
    return weight.name.endswith("bias")


def _embeddings(tokens: int, width: int, size: int) -> Group:
    return Group(tokens * width, size, 1, embedding=True, shape=(tokens, width))


def _encoder(hidden: int, method: Ptuning, size: int) -> Iterator[Group]:
    width = method.encoder_hidden_size

    def linear(columns: int, rows: int) -> Iterator[Group]:
        yield Group(rows * columns, size, 1, shape=(rows, columns))
        yield Group(rows, size, 1, decays=False, shape=(rows,))

    yield _embeddings(method.num_virtual_tokens, hidden, size)
    if method.encoder_reparameterization_type == "MLP":
        yield from linear(hidden, width)
        yield from linear(width, width)
        yield from linear(width, hidden)
        return
    columns = hidden
    for _ in range(LSTM_LAYERS):
        yield Group(4 * width * columns, size, 2, shape=(4 * width, columns))  # input to the four gates, both ways
        yield Group(4 * width * width, size, 2, shape=(4 * width, width))  # state to the four gates
        yield Group(4 * width, size, 4, decays=False, shape=(4 * width,))
        columns = 2 * width
    yield from linear(2 * width, 2 * width)
    yield from linear(2 * width, hidden)


def hidden_size(config: dict[str, Any]) -> int:
    """The width of the embeddings, under the name the config gives it."""
    for name in ("hidden_size", "n_embd", "d_model"):
        if config.get(name):
            return int(config[name])
    raise UsageError(
        "this model's config does not say its hidden size, which virtual tokens need", remedy="use --method lora"
    )


def prefix_layers(model: ModelSpec) -> int:
    """Layers that get a prefix: the decoder's, where there is an encoder too."""
    if model.config.get("is_encoder_decoder"):
        return list(stack_depths(model).values())[-1]
    for name in ("num_hidden_layers", "num_layers", "n_layer"):
        if model.config.get(name):
            return int(model.config[name])
    raise UsageError(f"{model.repo_id} does not say how many layers it has", remedy="use --method lora")


def prefix_width(config: dict[str, Any], layers: int) -> int:
    """Numbers of one virtual token of a prefix: a key and a value of every layer (peft/utils/other.py,
    _prepare_prompt_learning_config: grouped key/value heads are counted, other models take the hidden size)."""
    width = hidden_size(config)
    key_value_heads = config.get("num_key_value_heads")
    if key_value_heads:
        width = key_value_heads * (config.get("head_dim") or width // config["num_attention_heads"])
    return layers * 2 * int(width)


def is_adaptable(weight: Weight) -> bool:
    """What LoRA can sit on: ``isinstance(module, (nn.Linear, Conv1D))`` (peft/tuners/tuners_utils.py)."""
    linear = weight.module in ("linear", "linear_subclass") or is_conv1d(weight)
    return linear and weight.name.endswith(".weight")


def is_conv1d(weight: Weight) -> bool:
    """transformers' Conv1D, a linear stored (in, out); a real convolution has more dimensions."""
    return weight.module == "conv" and len(weight.shape) == 2


def is_head(weight: Weight, model: ModelSpec) -> bool:
    """The output projection onto the vocabulary."""
    if model.output_embedding is not None:
        return weight.name == f"{model.output_embedding}.weight"
    return weight.module == "linear" and not weight.layers and weight.shape[0] == model.config.get("vocab_size")


def is_embedding(weight: Weight) -> bool:
    """What LoRA sits on when it is named: a table, stored (in, out) (peft/tuners/lora/layer.py, Embedding)."""
    return weight.module == "embedding" and weight.name.endswith(".weight")


def targeted(
    model: ModelSpec, targets: Targets, *, but: tuple[str, ...] = (), tables: bool = True
) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, count) of each linear or embedding a method adapts. ``all-linear`` is every linear but the output
    head (peft/tuners/tuners_utils.py, _maybe_include_all_linear_layers).

    Args:
        tables: embeddings too.

    Raises:
        UsageError: a target matches nothing.
    """
    for weight in model.weights:
        excluded = any(ends_with(weight.name, other) for other in but)
        adaptable = is_adaptable(weight) or (tables and is_embedding(weight))
        if adaptable and matches(weight, model, targets) and not excluded:
            yield (*_rows_and_columns(weight), weight.count)
    _check_matched(model, targets)


def _rows_and_columns(weight: Weight) -> tuple[int, int]:
    rows, columns = reversed(weight.shape) if is_conv1d(weight) or is_embedding(weight) else weight.shape
    return rows, columns


def matches(weight: Weight, model: ModelSpec, targets: Targets) -> bool:
    """Whether a linear's or embedding's weight is a target."""
    if is_classification_head(weight.name) or in_tower(weight.name):
        return False
    if targets == "all-linear":
        return is_adaptable(weight) and not is_head(weight, model)
    return any(ends_with(weight.name, target) for target in targets)


def _check_matched(model: ModelSpec, targets: Targets) -> None:
    missing = unmatched_targets(model, targets)
    if missing:
        names = ", ".join(sorted(linear_names(model)))
        raise UsageError(
            f"--target {missing[0]}: {model.repo_id} has no linear of that name", remedy=f"its linears are: {names}"
        )


def linear_names(model: ModelSpec) -> set[str]:
    """Last parts of the names of all linears."""
    return {leaf(weight.name) for weight in model.weights if is_adaptable(weight)}


def unmatched_targets(model: ModelSpec, targets: Targets) -> list[str]:
    """Targets that name no linear or embedding of the model."""
    if targets == "all-linear":
        return []
    adaptable = [weight.name for weight in model.weights if is_adaptable(weight) or is_embedding(weight)]
    return [target for target in targets if not any(ends_with(name, target) for name in adaptable)]


def leaf(name: str) -> str:
    """``model.layers.{layer}.mlp.up_proj.weight`` -> ``up_proj``."""
    return name.rsplit(".", 2)[-2]
