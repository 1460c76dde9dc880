"""What is there before the first token: base weights, quantisation state, adapter, gradients, optimizer states.

Counted tensor by tensor, each rounded up to the allocator's quantum (512 bytes on CUDA, 1 on the CPU).

    LoRA     A is (r, in), B is (out, r): r (in + out) parameters a linear (Hu et al., 2021, section 4.1)
    4-bit    ceil(n / 2) bytes packed; per linear absmax (a byte per 64 and an fp32 per 16,384 with double
             quantisation, else an fp32 per 64), two code books of 16 and 256 fp32, an fp32 offset
             (Dettmers et al., 2023, section 3; bitsandbytes/functional.py, quantize_4bit)
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from vramplan.planner.dtypes import BYTES
from vramplan.planner.errors import UsageError
from vramplan.planner.methods import Full, Lora, Qlora, Targets
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.training_setup import TrainingSetup

BLOCK_SIZE = 64
NESTED_BLOCK_SIZE = 256
CODE_BYTES = 16 * 4
NESTED_CODE_BYTES = 256 * 4
OFFSET_BYTES = 4
DORA_MAGNITUDE_BYTES = 4
"""DoRA's magnitude of each output row stays fp32 (Liu et al., 2024, arXiv:2402.09353; planner/trace/adapters.py)."""


@dataclass(frozen=True)
class Group:
    """Equal tensors: ``count`` of ``numel`` elements at ``element_bytes``."""

    numel: int
    element_bytes: int
    count: int
    decays: bool = True
    """Trainer puts it in the weight-decay parameter group."""
    embedding: bool = False

    def rounded(self, quantum_bytes: int) -> int:
        """Bytes the allocator gives all of them."""
        return self.count * round_up(self.numel * self.element_bytes, quantum_bytes)


@dataclass
class StaticMemory:
    """Tensors that exist before the step, by component."""

    weights: list[Group] = field(default_factory=list)
    quantization_state: list[Group] = field(default_factory=list)
    adapter: list[Group] = field(default_factory=list)
    trainable: list[Group] = field(default_factory=list)
    """The parameters that have gradients and optimizer states."""
    quantized_params: int = 0
    """Base parameters held in 4 bits."""

    @property
    def trainable_params(self) -> int:
        return sum(group.numel * group.count for group in self.trainable)

    @property
    def adapter_params(self) -> int:
        return sum(group.numel * group.count for group in self.adapter)


def round_up(size_bytes: int, quantum_bytes: int) -> int:
    """The next multiple.

    >>> round_up(513, 512)
    1024
    """
    return -(-size_bytes // quantum_bytes) * quantum_bytes


def total_bytes(groups: list[Group], quantum_bytes: int) -> int:
    """Bytes of several groups."""
    return sum(group.rounded(quantum_bytes) for group in groups)


def count_static(model: ModelSpec, setup: TrainingSetup) -> StaticMemory:
    """Every static tensor of a model under a setup.

    Raises:
        UsageError: a target names no linear of the model.
    """
    method = setup.method
    out = StaticMemory()
    for weight in model.weights:
        if isinstance(method, Qlora) and is_quantized(weight, model):
            _count_quantized(weight, method, out)
        else:
            group = Group(weight.numel, BYTES[setup.precision.dtype], weight.count, _decays(weight), _embeds(weight))
            out.weights.append(group)
    if isinstance(method, Full):
        out.trainable = list(out.weights)
    else:
        adapter_bytes = BYTES[setup.precision.adapter_dtype]
        for rows, columns, count in targeted(model, method):
            out.adapter.append(Group(method.r * columns, adapter_bytes, count))
            out.adapter.append(Group(rows * method.r, adapter_bytes, count))
            if method.use_dora:
                out.adapter.append(Group(rows, DORA_MAGNITUDE_BYTES, count))
        out.trainable = list(out.adapter)
    return out


def is_quantized(weight: Weight, model: ModelSpec) -> bool:
    """bitsandbytes replaces ``nn.Linear`` and GPT-2's ``Conv1D`` but the output head's; a subclass of Linear and fused
    experts stay (transformers/integrations/bitsandbytes.py, replace_with_bnb_linear; quantizers/base.py)."""
    replaced = weight.module == "linear" or _is_conv1d(weight)
    return replaced and weight.name.endswith(".weight") and not is_head(weight, model)


def is_adaptable(weight: Weight) -> bool:
    """What LoRA can sit on: ``isinstance(module, (nn.Linear, Conv1D))`` (peft/tuners/tuners_utils.py)."""
    linear = weight.module in ("linear", "linear_subclass") or _is_conv1d(weight)
    return linear and weight.name.endswith(".weight")


def _is_conv1d(weight: Weight) -> bool:
    """transformers' Conv1D, a linear stored (in, out); a real convolution has more dimensions."""
    return weight.module == "conv" and len(weight.shape) == 2


def is_head(weight: Weight, model: ModelSpec) -> bool:
    """The output projection onto the vocabulary."""
    if model.output_embedding is not None:
        return weight.name == f"{model.output_embedding}.weight"
    return weight.module == "linear" and not weight.layers and weight.shape[0] == model.config.get("vocab_size")


def _count_quantized(weight: Weight, method: Qlora, out: StaticMemory) -> None:
    blocks = -(-weight.numel // BLOCK_SIZE)
    out.weights.append(Group(-(-weight.numel // 2), 1, weight.count))
    out.quantized_params += weight.numel * weight.count
    state = out.quantization_state
    state.append(Group(CODE_BYTES, 1, weight.count))
    if method.double_quant:
        state.append(Group(blocks, 1, weight.count))
        state.append(Group(-(-blocks // NESTED_BLOCK_SIZE), 4, weight.count))
        state.append(Group(NESTED_CODE_BYTES, 1, weight.count))
        state.append(Group(OFFSET_BYTES, 1, weight.count))
    else:
        state.append(Group(blocks, 4, weight.count))


def targeted(model: ModelSpec, method: Lora | Qlora) -> Iterator[tuple[int, int, int]]:
    """(rows, columns, count) of each linear the method adapts. ``all-linear`` is every linear but the output head
    (peft/tuners/tuners_utils.py, _maybe_include_all_linear_layers).

    Raises:
        UsageError: a target matches nothing.
    """
    for weight in model.weights:
        if is_adaptable(weight) and matches(weight, model, method):
            rows, columns = reversed(weight.shape) if _is_conv1d(weight) else weight.shape
            yield rows, columns, weight.count
    missing = unmatched_targets(model, method.target_modules)
    if missing:
        names = ", ".join(sorted(linear_names(model)))
        raise UsageError(
            f"--target {missing[0]}: {model.repo_id} has no linear of that name", remedy=f"its linears are: {names}"
        )


def matches(weight: Weight, model: ModelSpec, method: Lora | Qlora) -> bool:
    """Whether a linear's weight is a target."""
    if method.target_modules == "all-linear":
        return not is_head(weight, model)
    return any(_ends_with(weight.name, target) for target in method.target_modules)


def linear_names(model: ModelSpec) -> set[str]:
    """Last parts of the names of all linears."""
    return {_leaf(weight.name) for weight in model.weights if is_adaptable(weight)}


def unmatched_targets(model: ModelSpec, targets: Targets) -> list[str]:
    """Targets that name no linear of the model."""
    if targets == "all-linear":
        return []
    linears = [weight.name for weight in model.weights if is_adaptable(weight)]
    return [target for target in targets if not any(_ends_with(name, target) for name in linears)]


def _ends_with(name: str, target: str) -> bool:
    """PEFT's match: the module's dotted name is the target or ends with a dot and it
    (peft/tuners/tuners_utils.py, check_target_module_exists)."""
    return f".{name.rpartition('.')[0]}".endswith(f".{target}")


def _leaf(name: str) -> str:
    """``model.layers.{layer}.mlp.up_proj.weight`` -> ``up_proj``."""
    return name.rsplit(".", 2)[-2]


def _decays(weight: Weight) -> bool:
    """Trainer decays everything but norms and biases (transformers/trainer.py, get_decay_parameter_names)."""
    return weight.module != "norm" and not weight.name.endswith("bias")


def _embeds(weight: Weight) -> bool:
    return weight.module == "embedding"
