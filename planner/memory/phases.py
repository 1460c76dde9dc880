"""The phases of a run beside its training step: loading, evaluation, saving, resuming, merging.

load        the weights, and while a linear is being quantised its copy in half precision: one at a time, because
            transformers loads synchronously then (core_model_loading.py, convert_and_load_state_dict_in_model); PiSSA
            takes each adapted linear apart in fp32 (peft/tuners/lora/layer.py, pissa_init), beside which the
            workspace of the decomposition itself is not known
evaluation  one layer's forward at a time and the loss, nothing kept for a backward, at the micro batch
            (per_device_eval_batch_size) and without its logits (prediction_loss_only). Counted from the training
            step's forward: all that one layer allocates, so with everything that it would keep too
save        nothing more: safetensors and torch.save copy tensor by tensor to the host
resume      the optimizer's states are read to the host and copied to the device one by one
            (transformers/trainer.py, _load_optimizer_and_scheduler); before that PEFT reads the adapter's file
            straight to the device, a second copy of it (peft/peft_model.py, load_adapter)
merge       the product of the two factors and the scaled product, of the largest adapted linear
            (peft/tuners/lora/layer.py, get_delta_weight); a quantised base is merged on the host
"""

from vramplan.planner.dtypes import BYTES
from vramplan.planner.memory.budget import Component, PhaseName
from vramplan.planner.memory.groups import Group, round_up
from vramplan.planner.memory.replay import Replay
from vramplan.planner.memory.static import BLOCK_SIZE, is_quantized
from vramplan.planner.memory.static_methods import targeted
from vramplan.planner.methods import Lora, quant_of, trains_base
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.training_setup import TrainingSetup

Parts = dict[Component, int]
BECAUSE: dict[tuple[PhaseName, Component], str] = {
    ("load", "temporaries"): "the largest linear while it is quantised or, for PiSSA, taken apart",
    ("evaluation", "activations"): "one hidden state: nothing is kept for a backward",
    ("evaluation", "temporaries"): "one layer's forward, with all that it allocates",
    ("save", "temporaries"): "fused experts taken apart for the file: a copy of their gate and up projections",
    ("resume", "temporaries"): "the adapter's file, read straight to the device",
    ("merge", "temporaries"): "the product of the largest pair of factors, and the scaled product",
}
"""Why, where a component means something else than in a training step."""
FUSED_IN_THE_FILE = ("gpt_oss", "llama4", "llama4_text")
"""Model types whose checkpoints hold fused experts, so that none are taken apart."""
_LOADED: tuple[Component, ...] = ("weights", "quantization_state", "adapter", "buffers")


def loading(base: Parts, model: ModelSpec, setup: TrainingSetup, quantum_bytes: int) -> Parts:
    """Everything loaded, and the last large linear on its way."""
    sizes = quantizing_bytes(model, setup) + decomposing_bytes(model, setup)
    passing = sum(round_up(size, quantum_bytes) for size in sizes)
    return {name: base.get(name, 0) for name in _LOADED} | {"temporaries": passing}


def quantizing_bytes(model: ModelSpec, setup: TrainingSetup) -> list[int]:
    """The largest linear in its own dtype, and its absmax in fp32 before that is quantised too
    (bitsandbytes/functional.py, quantize_4bit)."""
    if quant_of(setup.method) is None:
        return []
    largest = max((weight.numel for weight in model.weights if is_quantized(weight, model)), default=0)
    absmax = 4 * -(-largest // BLOCK_SIZE) if getattr(setup.method, "double_quant", False) else 0
    return [largest * BYTES[setup.precision.dtype], absmax]


def decomposing_bytes(model: ModelSpec, setup: TrainingSetup) -> list[int]:
    """The linear that PiSSA needs most for: its factors, B A, what is left of the weight, and an fp32 copy of one that
    is none (``pissa``: all singular vectors; ``pissa_niter_N``: the first r)."""
    method = setup.method
    if not isinstance(method, Lora) or not method.init_lora_weights.startswith("pissa"):
        return []

    def of_linear(rows: int, columns: int) -> list[int]:
        kept = min(rows, columns) if method.init_lora_weights == "pissa" else min(method.r, rows, columns)
        whole = 2 if setup.precision.dtype == "fp32" else 3
        return [4 * n for n in (*[rows * columns] * whole, kept * rows, kept, kept * columns)]

    linears = targeted(model, method.target_modules, tables=False)
    return max((of_linear(rows, columns) for rows, columns, _ in linears), key=sum, default=[])


def warmed_up_bytes(weights: list[Group], setup: TrainingSetup) -> int:
    """The block that transformers allocates and frees before it loads to a device, so that one segment holds the whole
    model (modeling_utils.py, caching_allocator_warmup): every parameter's bytes, 4-bit ones packed. It does so where
    ``from_pretrained`` is given the device: our executor does that, and a quantised base needs it."""
    if setup.loop != "executor" and quant_of(setup.method) is None:
        return 0
    return sum(group.numel * group.element_bytes * group.count for group in weights)


def evaluation(between: Parts, replay: Replay) -> Parts | None:
    """The highest point of a forward that keeps nothing; None where it is another forward than the training step's
    (Liger's model makes all logits then)."""
    if replay.program.key.mode.loss == "liger":
        return None
    peak = replay.forward_alone()
    parts = {name: between.get(name, 0) + peak.parts.get(name, 0) for name in (*between, *peak.parts)}
    # what a head frees of earlier layers' was never kept here
    parts["temporaries"] = parts.get("temporaries", 0) + sum(size for size in parts.values() if size < 0)
    return {name: max(0, size) for name, size in parts.items()}


def saving(between: Parts, model: ModelSpec, setup: TrainingSetup) -> Parts:
    """Between two steps, and the experts taken apart where the base is saved."""
    if not trains_base(setup.method) or model.model_type in FUSED_IN_THE_FILE:
        return between
    apart = sum(
        weight.numel * weight.count * BYTES[setup.precision.dtype]
        for weight in model.weights
        if weight.module == "experts" and "gate_up_proj" in weight.name
    )
    return between | {"temporaries": between.get("temporaries", 0) + apart}


def resuming(base: Parts, adapter_bytes: int) -> Parts:
    """The larger of: the adapter twice, before the optimizer's states come; all of them there."""
    if base.get("optimizer", 0) >= adapter_bytes:
        return {name: base.get(name, 0) for name in (*_LOADED, "optimizer")}
    return {name: base.get(name, 0) for name in _LOADED} | {"temporaries": adapter_bytes}


def merging(base: Parts, model: ModelSpec, setup: TrainingSetup, quantum_bytes: int) -> Parts | None:
    """Merging on the device; None where it is not done there."""
    method = setup.method
    if not isinstance(method, Lora):
        return None
    largest = max(rows * columns for rows, columns, _ in targeted(model, method.target_modules))
    product = round_up(largest * BYTES[setup.precision.adapter_dtype], quantum_bytes)
    return {name: base.get(name, 0) for name in _LOADED} | {"temporaries": 2 * product}
