"""The because of each budget line, in words and with its arithmetic."""

from vramplan.planner.dims import language_config
from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.budget import Component
from vramplan.planner.memory.static import StaticMemory, base_dtype
from vramplan.planner.methods import (
    Bottleneck,
    Ia3,
    LnTuning,
    Method,
    Prefix,
    Prompt,
    Ptuning,
    quant_of,
    trainable_blocks,
    trains_base,
)
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.tasks import CLASSIFIER
from vramplan.planner.training_setup import TrainingSetup
from vramplan.planner.units import format_bytes, format_count


def reasons(model: ModelSpec, setup: TrainingSetup, static: StaticMemory, managed_bytes: int) -> dict[Component, str]:
    """Why each component is what it is. ``managed_bytes``: optimizer states outside PyTorch's memory."""
    return {
        "weights": _weights(model, setup, static),
        "quantization_state": _quantization(setup),
        "adapter": _adapter(setup, static),
        "gradients": _gradients(setup, static),
        "optimizer": _optimizer(setup, static, managed_bytes),
        "activations": _activations(setup),
        "loss": _loss(model, setup),
        "temporaries": "gradients of activations, casts and products in flight",
        "buffers": "rotary frequencies",
        "batch": _batch(setup),
        "gathered": "no parameter is gathered",
        "communication": "one device",
        "workspace": "cuBLAS's, one for the forward's thread and one for the backward's, never freed",
    }


def _weights(model: ModelSpec, setup: TrainingSetup, static: StaticMemory) -> str:
    dtype = base_dtype(setup)
    plain = model.total_params - static.quantized_params
    rest = f"{format_count(plain)} x {BYTES[dtype]} bytes: {dtype}"
    if not static.quantized_params:
        return rest
    quant = quant_of(setup.method)
    bits = 8 if quant == "int8" else 4
    return f"{format_count(static.quantized_params)} x {bits} bits: {quant}; {rest} (embeddings, head, norms)"


def _quantization(setup: TrainingSetup) -> str:
    if quant_of(setup.method) is None:
        return "not quantised"
    if quant_of(setup.method) == "int8":
        return "4 bytes a row of 8-bit weights"
    if getattr(setup.method, "double_quant", False):
        return "a byte per 64 weights and 4 per 16,384, double quantisation; code books per linear"
    return "4 bytes per 64 weights; a code book per linear"


def _adapter(setup: TrainingSetup, static: StaticMemory) -> str:
    if trains_base(setup.method):
        return "no adapter"
    dtype = setup.precision.adapter_dtype
    return f"{format_count(static.adapter_params)} x {BYTES[dtype]} bytes: {_adapter_words(setup.method)}, {dtype}"


def _adapter_words(method: Method) -> str:
    match method:
        case Bottleneck():
            return f"{method.adapter_kind} bottlenecks of {method.bottleneck_size}"
        case Ia3():
            return "a factor a channel"
        case LnTuning():
            return "copies of the norms"
        case Prefix():
            return f"{method.num_virtual_tokens} keys and values of every layer"
        case Prompt():
            return f"{method.num_virtual_tokens} embeddings"
        case Ptuning():
            return f"{method.num_virtual_tokens} embeddings and their {method.encoder_reparameterization_type}"
        case _:
            return f"r={getattr(method, 'r', None)}"


def _trainable_dtype(setup: TrainingSetup) -> str:
    return setup.precision.dtype if trains_base(setup.method) else setup.precision.adapter_dtype


def _gradients(setup: TrainingSetup, static: StaticMemory) -> str:
    dtype = _trainable_dtype(setup)
    kept = ", kept over micro batches" if setup.gradient_accumulation_steps > 1 else ""
    return f"{format_count(static.trainable_params)} trainable x {BYTES[dtype]} bytes: {dtype}{kept}"


def _optimizer(setup: TrainingSetup, static: StaticMemory, managed_bytes: int) -> str:
    count = format_count(static.trainable_params)
    fp32 = "small tensors" if setup.loop == "plain" else "small tensors and embeddings"
    match setup.optimizer:
        case "adamw_8bit":
            return f"{count} trainable x 2 bytes + 8 per 256: 8-bit m and v ({fp32} fp32)"
        case "paged_adamw_8bit":
            return (
                f"8-bit m and v of {count} trainable: {format_bytes(managed_bytes)} in CUDA managed memory, not "
                "in this figure (on the device while there is room, else in host memory); here 8 bytes per 256, and "
                "tensors under 100,000 elements"
            )
        case "lion_8bit":
            return f"{count} trainable x 1 byte + 4 per 256: 8-bit m ({fp32} fp32)"
        case "adafactor":
            return "fp32 second moments, one for each row and column of a matrix (transformers' Adafactor)"
        case "sgd":
            return "SGD without momentum keeps nothing"
    dtype = _trainable_dtype(setup)
    return f"{count} trainable x {2 * BYTES[dtype]} bytes: m and v in {dtype}"


def _activations(setup: TrainingSetup) -> str:
    if setup.loop == "plain" and not setup.gradient_checkpointing:
        return "everything the backward needs, of every layer, and the key/value cache that the loop's names keep"
    if trainable_blocks(setup.method) is not None:
        each = "one hidden state of each, and one recomputed at a time" if setup.gradient_checkpointing else "all of it"
        return f"what the blocks that train keep for the backward: {each}; those below keep nothing"
    if setup.gradient_checkpointing:
        return "one hidden state a layer, and one layer recomputed at a time (checkpointing)"
    return "everything the backward needs, of every layer (no checkpointing)"


def _batch(setup: TrainingSetup) -> str:
    if setup.loop == "plain":
        return "token ids, labels and mask of one micro batch"
    return "token ids, labels and mask of every micro batch of a step, and one fetched ahead"


def _loss(model: ModelSpec, setup: TrainingSetup) -> str:
    if model.architecture.endswith(CLASSIFIER):
        return "a few logits a row: the model's own loss"
    vocabulary = language_config(model.config)["vocab_size"]
    if setup.loss == "fused":
        return f"vocabulary {vocabulary:,} in tiles of 4,096 tokens x 32,768: TRL's fused head"
    kept = ", and the logits the loop's names keep from step to step" if setup.loop == "plain" else ""
    return f"logits over {vocabulary:,} tokens and their fp32 copies: the stock loss{kept}"
