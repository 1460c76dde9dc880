"""Record one micro step of a structure in a mode at chosen sizes: every allocation, by segment and layer.

Segments: forward.embed, forward.layer[i], forward.head, backward.head, backward.layer[i], backward.embed, end.
"""

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from vramplan.planner.programs.key import Mode
from vramplan.planner.trace import attention, loss, quantize, step
from vramplan.planner.trace.adapters import apply_method
from vramplan.planner.trace.skeleton import TORCH_DTYPES, build_skeleton, materialize
from vramplan.planner.trace.tracker import Tracker, exact_lifetimes
from vramplan.planner.methods import Full, Lora, Method, Qlora


@dataclass(frozen=True)
class Case:
    """Sizes to record at: a config with those sizes, and the batch."""

    config: dict[str, Any]
    mode: Mode
    batch: int
    sequence: int
    rank: int
    num_valid_labels: int | None = None


def method_of(mode: Mode, rank: int) -> Method:
    """The method a mode stands for, at a rank."""
    if mode.method == "full":
        return Full()
    fields: dict[str, Any] = {
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.1 if mode.dropout else 0.0,
        "target_modules": mode.target_modules,
        "use_dora": mode.use_dora,
    }
    if mode.method == "lora":
        return Lora(**fields)
    assert mode.quant is not None
    return Qlora(**fields, quant=mode.quant, double_quant=mode.double_quant)


def build_model(case: Case, *, real: bool = False) -> nn.Module:
    """The wrapped, quantised, checkpointed model of a case, on fake tensors (inside a FakeTensorMode) or real ones."""
    mode = case.mode
    with unset_fake_temporarily():  # modules cannot be moved or cast under a fake mode
        model = build_skeleton(case.config, dtype=mode.dtype, attention=mode.attention)
        if mode.quant is not None:
            quantize.quantize_skeleton(
                model, quant=mode.quant, double_quant=mode.double_quant, compute_dtype=mode.dtype
            )
        method = method_of(mode, case.rank)
        model = apply_method(model, method, adapter_dtype=mode.adapter_dtype or mode.dtype)
    materialize(model, real=real)
    model.train()
    if mode.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})  # type: ignore[operator]
        if mode.method != "full":
            model.enable_input_require_grads()  # type: ignore[operator]
    if mode.loss == "fused":
        loss.add_fused_head(model)
    if mode.mixed_precision != "no":
        loss.add_autocast(model, TORCH_DTYPES[mode.mixed_precision])
    return model


def record(case: Case, *, as_macro: bool = True) -> Tracker:
    """The log of one micro step on fake tensors."""
    mode = case.mode
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_eager_masks())
        if mode.route == "cuda":
            stack.enter_context(attention.cuda_kernels())
        internal = {attention.FLASH_BACKWARD: attention.flash_backward_buffers} if mode.route == "cuda" else {}
        model = build_model(case)
        tracker = Tracker(
            num_valid_labels=case.num_valid_labels,
            padded=mode.padded,
            replace=quantize.opened_kernels() if mode.quant else {},
            internal=internal,
        )
        if mode.loss == "fused":
            stack.enter_context(loss.fused_loss(mode.route, tracker, as_macro=as_macro))
        run_tracked(model, case, tracker)
    return tracker


def run_tracked(model: nn.Module, case: Case, tracker: Tracker, *, real: bool = False) -> None:
    """Run one micro step of ``model`` under ``tracker``, its static tensors declared first."""
    declare_static(model, tracker)
    batch = step.language_batch(case.batch, case.sequence, real=real, vocab_size=case.config["vocab_size"])
    for tensor in batch.values():
        tracker.see(tensor, tag="batch")
    num_items = step.count_items([batch])
    tracker.see(num_items, tag="batch")

    def mark(name: str) -> None:
        tracker.where.name, tracker.where.layer = {
            "forward": ("forward.embed", None),
            "backward": ("backward.head", None),
        }.get(name, (name, None))

    with contextlib.ExitStack() as stack:
        stack.enter_context(_segment_hooks(model, tracker))
        stack.enter_context(exact_lifetimes())
        with tracker:
            held = step.micro_step(model, batch, num_items, case.mode.loss, mark)
        tracker.events = list(tracker.events)  # deaths after this point are not part of the step
        del held


def declare_static(model: nn.Module, tracker: Tracker) -> None:
    """Weights, buffers and quantisation state exist before the step."""
    for parameter in model.parameters():
        tracker.see(parameter, tag="weight")
    for buffer in model.buffers():
        tracker.see(buffer, tag="buffer")
    for tensor in quantize.quantization_tensors(model):
        tracker.see(tensor, tag="quantization_state")


def find_layers(model: nn.Module) -> list[nn.Module]:
    """The repeated blocks: the longest ModuleList whose members hold parameters."""
    best: list[nn.Module] = []
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) > len(best):
            members = list(module)
            if all(next(member.parameters(), None) is not None for member in members):
                best = members
    return best


@contextlib.contextmanager
def _segment_hooks(model: nn.Module, tracker: Tracker) -> Any:
    """Keep ``tracker.where`` true: which layer runs, forward or backward, and which module."""
    layers = find_layers(model)
    where = tracker.where
    names = _labels(model)
    handles: list[Any] = []

    def enter(name: str, layer: int | None) -> None:
        where.name, where.layer = name, layer

    def before_layer(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if where.name.startswith("backward"):
                return
            enter("forward.layer", index)
            hidden = args[0] if args else kwargs.get("hidden_states")
            if index == 0 and isinstance(hidden, torch.Tensor) and hidden.requires_grad:
                hidden.register_hook(lambda grad: enter("backward.embed", None))

        return hook

    def after_layer(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], out: Any) -> None:
            if where.name.startswith("backward"):
                return
            if index == len(layers) - 1:
                enter("forward.head", None)
            hidden = out[0] if isinstance(out, (tuple, list)) else out
            if hidden.requires_grad:
                hidden.register_hook(lambda grad: enter("backward.layer", index))

        return hook

    def push(module: nn.Module, args: Any) -> None:
        where.modules.append(names.get(id(module), ""))

    def pop(module: nn.Module, args: Any, out: Any) -> None:
        if where.modules:
            where.modules.pop()

    for index, layer in enumerate(layers):
        handles.append(layer.register_forward_pre_hook(before_layer(index), with_kwargs=True))
        handles.append(layer.register_forward_hook(after_layer(index)))
    handles += [register_module_forward_pre_hook(push), register_module_forward_hook(pop)]
    for parameter in model.parameters():
        if parameter.requires_grad:
            handles.append(parameter.register_post_accumulate_grad_hook(tracker.accumulated))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _labels(model: nn.Module) -> dict[int, str]:
    """Module paths as a person reads them: wrappers and layer numbers left out."""
    labels = {}
    for name, module in model.named_modules():
        parts = [part for part in name.split(".") if not part.isdigit() and part not in ("base_model", "base_layer")]
        while parts[:2] == ["model", "model"]:
            parts = parts[1:]
        labels[id(module)] = ".".join(parts)
    return labels


@contextlib.contextmanager
def _eager_masks() -> Any:
    """Masking code must take the branch it takes in eager mode; the tracker answers what it asks of the mask."""
    import transformers.masking_utils as masking

    original = masking.is_tracing
    masking.is_tracing = lambda *args, **kwargs: False
    try:
        yield
    finally:
        masking.is_tracing = original
