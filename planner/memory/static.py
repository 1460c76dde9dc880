"""What is there before the first token: base weights, quantisation state, adapter, gradients, optimizer states.

Counted tensor by tensor, each rounded up to the allocator's quantum (512 bytes on CUDA, 1 on the CPU).

    8-bit    a byte each, and an fp32 scale a row (Dettmers et al., 2022, section 2.1)
    4-bit    ceil(n / 2) bytes packed; per linear absmax (a byte per 64 and an fp32 per 16,384 with double
             quantisation, else an fp32 per 64), two code books of 16 and 256 fp32, an fp32 offset
             (Dettmers et al., 2023, section 3; bitsandbytes/functional.py, quantize_4bit)
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from vramplan.planner.dtypes import BYTES, FloatDtype
from vramplan.planner.layerwise import rate_number
from vramplan.planner.memory.groups import Group as Group
from vramplan.planner.memory.groups import round_up as round_up
from vramplan.planner.memory.groups import total_bytes as total_bytes
from vramplan.planner.memory.last_blocks import trained_count
from vramplan.planner.memory.static_methods import adapter_groups, check_biases, is_bias, is_conv1d, is_head
from vramplan.planner.memory.static_tasks import head_copies
from vramplan.planner.methods import Bitfit, Layerwise, Method, quant_of, trains_base
from vramplan.planner.model_spec import ModelSpec, Weight
from vramplan.planner.tasks import in_tower, is_classification_head
from vramplan.planner.training_setup import TrainingSetup

BLOCK_SIZE = 64
NESTED_BLOCK_SIZE = 256
CODE_BYTES = 16 * 4
NESTED_CODE_BYTES = 256 * 4
OFFSET_BYTES = 4
SCALE_BYTES = 4


@dataclass
class StaticMemory:
    """Tensors that exist before the step, by component."""

    weights: list[Group] = field(default_factory=list)
    quantization_state: list[Group] = field(default_factory=list)
    adapter: list[Group] = field(default_factory=list)
    trainable: list[Group] = field(default_factory=list)
    """The parameters that have gradients and optimizer states."""
    quantized_params: int = 0
    """Base parameters held in 4 or 8 bits."""

    @property
    def trainable_params(self) -> int:
        return sum(group.numel * group.count for group in self.trainable)

    @property
    def adapter_params(self) -> int:
        return sum(group.numel * group.count for group in self.adapter)


def count_static(model: ModelSpec, setup: TrainingSetup) -> StaticMemory:
    """Every static tensor of a model under a setup.

    Raises:
        UsageError: a target names nothing of the model, or the model has no biases for BitFit.
    """
    method = setup.method
    if isinstance(method, Bitfit):
        check_biases(model)
    out = StaticMemory()
    for weight in model.weights:
        if quant_of(method) is not None and is_quantized(weight, model):
            _count_quantized(weight, method, out)
            continue
        size = BYTES[base_dtype(setup)]
        group = Group(weight.numel, size, weight.count, _decays(weight), _embeds(weight), weight.shape)
        out.weights.append(group)
        trained = trained_count(weight, model, method)
        if trains_base(method) and _trains(weight, method) and trained:
            out.trainable += _by_rate(replace(group, count=trained), weight, method)
    if not trains_base(method):
        out.adapter = adapter_groups(model, setup) + head_copies(model, setup)
        out.trainable = list(out.adapter)
    return out


def _by_rate(group: Group, weight: Weight, method: Method) -> list[Group]:
    """The group, in one part or by learning rate."""
    if not isinstance(method, Layerwise):
        return [group]
    names = [weight.name.replace("{layer}", str(layer)) for layer in weight.layers] or [weight.name]
    counts = Counter(rate_number(name, method) for name in names)
    return [replace(group, count=count, rate=rate) for rate, count in sorted(counts.items())]


def _trains(weight: Weight, method: Method) -> bool:
    """Whether a weight of the base has a gradient: not in a tower, which never runs on text; BitFit trains the biases,
    and a classifier's head."""
    bitfit = isinstance(method, Bitfit) and not is_bias(weight) and not is_classification_head(weight.name)
    return not in_tower(weight.name) and not bitfit


def base_dtype(setup: TrainingSetup) -> FloatDtype:
    """Of the base's weights that are not quantised: k-bit preparation leaves no half precision (peft/utils/other.py,
    prepare_model_for_kbit_training)."""
    return "fp32" if setup.kbit_preparation else setup.precision.dtype


def is_quantized(weight: Weight, model: ModelSpec) -> bool:
    """bitsandbytes replaces ``nn.Linear`` and GPT-2's ``Conv1D`` but the output head's; a subclass of Linear and fused
    experts stay (transformers/integrations/bitsandbytes.py, replace_with_bnb_linear; quantizers/base.py)."""
    if is_classification_head(weight.name):  # kept by llm_int8_skip_modules: a quantised copy cannot train
        return False
    replaced = weight.module == "linear" or is_conv1d(weight)
    return replaced and weight.name.endswith(".weight") and not is_head(weight, model)


def _count_quantized(weight: Weight, method: Method, out: StaticMemory) -> None:
    if quant_of(method) == "int8":
        out.weights.append(Group(weight.numel, 1, weight.count))
        out.quantized_params += weight.numel * weight.count
        rows = weight.shape[1] if is_conv1d(weight) else weight.shape[0]
        out.quantization_state.append(Group(rows, SCALE_BYTES, weight.count))
        return
    blocks = -(-weight.numel // BLOCK_SIZE)
    out.weights.append(Group(-(-weight.numel // 2), 1, weight.count))
    out.quantized_params += weight.numel * weight.count
    state = out.quantization_state
    state.append(Group(CODE_BYTES, 1, weight.count))
    if getattr(method, "double_quant", False):
        state.append(Group(blocks, 1, weight.count))
        state.append(Group(-(-blocks // NESTED_BLOCK_SIZE), 4, weight.count))
        state.append(Group(NESTED_CODE_BYTES, 1, weight.count))
        state.append(Group(OFFSET_BYTES, 1, weight.count))
    else:
        state.append(Group(blocks, 4, weight.count))


def _decays(weight: Weight) -> bool:
    """Trainer decays everything but norms and biases (transformers/trainer.py, get_decay_parameter_names)."""
    return weight.module != "norm" and not weight.name.endswith("bias")


def _embeds(weight: Weight) -> bool:
    return weight.module == "embedding"
