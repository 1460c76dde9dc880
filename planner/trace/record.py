"""Record one micro step of a structure in a mode at chosen sizes: every allocation, by segment and layer.

Segments: forward.embed, forward.layer[i], forward.head, backward.head, backward.layer[i], backward.embed, end.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Any, get_args

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily

from vramplan.planner.methods import Method, trains_base
from vramplan.planner.programs.key import Mode
from vramplan.planner.trace import (
    attention,
    experts,
    flash_attention,
    int8,
    liger,
    loss,
    plain_loop,
    quantize,
    step,
    virtual_tokens,
)
from vramplan.planner.trace.adapters import apply_method
from vramplan.planner.trace.autocast import cuda_autocast
from vramplan.planner.trace.kernel_buffers import CUDA_BUFFERS
from vramplan.planner.trace.rng_states import seen_states
from vramplan.planner.trace.segments import following
from vramplan.planner.trace.skeleton import TORCH_DTYPES, build_skeleton, materialize
from vramplan.planner.trace.task_batches import task_batch
from vramplan.planner.trace.tracker import Tracker, exact_lifetimes

_KINDS: dict[str, Any] = {kind.model_fields["kind"].default: kind for kind in get_args(get_args(Method)[0])}


@dataclass(frozen=True)
class Case:
    """Sizes to record at: a config with those sizes, and the batch."""

    config: dict[str, Any]
    mode: Mode
    batch: int
    sequence: int
    rank: int
    num_valid_labels: int | None = None
    kept: tuple[int, ...] = ()
    """Layers of the config's stack to keep, where not all."""
    documents: int | None = None
    """Documents of a packed row."""
    num_labels: int | None = None
    target: int | None = None
    """Tokens of a decoder that has an encoder."""
    trainable_blocks: int | None = None
    """How many of the last layers train, where the mode says that not all do."""
    method_sizes: dict[str, int] = field(default_factory=dict)
    """The method's own variables (planner/dims.py): virtual tokens, bottleneck ..."""


def method_of(mode: Mode, rank: int, sizes: dict[str, int], blocks: int | None = None) -> Method:
    """The method a mode stands for, at a rank and the method's other sizes.

    Args:
        blocks: how many of the last layers train, where not all do.
    """
    fields: dict[str, Any] = {
        "kind": mode.method,
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_dropout": 0.1 if mode.dropout else 0.0,
        "target_modules": mode.target_modules,
        "use_dora": mode.use_dora,
        "quant": mode.quant,
        "double_quant": mode.double_quant,
        "feedforward_modules": mode.feedforward_modules,
        "modules_to_save": mode.modules_to_save,
        "trainable_token_indices": tuple(range(sizes.get("t", 0))),
        "adapter_kind": mode.adapter_kind,
        "non_linearity": mode.non_linearity,
        "encoder_reparameterization_type": mode.encoder,
        "num_virtual_tokens": sizes.get("P"),
        "bottleneck_size": sizes.get("b"),
        "encoder_hidden_size": sizes.get("e"),
        "trainable_blocks": blocks,
    }
    kind = _KINDS[mode.method]
    method: Method = kind(**{name: value for name, value in fields.items() if name in kind.model_fields})
    return method


def build_model(case: Case, *, real: bool = False) -> nn.Module:
    """The wrapped, quantised, checkpointed model of a case, on fake tensors (inside a FakeTensorMode) or real ones."""
    mode = case.mode
    with unset_fake_temporarily():  # modules cannot be moved or cast under a fake mode
        model = build_skeleton(
            case.config,
            dtype=mode.dtype,
            attention=mode.attention,
            kept=case.kept,
            task=mode.task,
            num_labels=case.num_labels,
        )
        # Trainer turns the cache off (TrainingArguments.use_cache); by hand it stays as the model has it
        model.config.get_text_config().use_cache = mode.loop == "plain"
        method = method_of(mode, case.rank, case.method_sizes, case.trainable_blocks)
        with quantize.opened_dora():
            model = apply_method(_quantized(model, mode), method, adapter_dtype=mode.adapter_dtype or mode.dtype)
    materialize(model, real=real)
    virtual_tokens.renew_indices(model)
    int8.restore_states(model)
    model.train()
    if mode.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not trains_base(method):
            model.enable_input_require_grads()
    if mode.loss == "fused":
        loss.add_fused_head(model)
    if mode.loss == "liger":
        liger.add_liger_loss(model)
    if mode.mixed_precision != "no" and mode.loop != "plain":
        loss.add_autocast(model, TORCH_DTYPES[mode.mixed_precision])
    return model


def _quantized(model: nn.Module, mode: Mode) -> nn.Module:
    """The base as its quantisation leaves it, and k-bit preparation."""
    if mode.quant is None:
        return model
    compute = mode.dtype if mode.mixed_precision == "no" else mode.mixed_precision
    quantize.quantize_skeleton(
        model, quant=mode.quant, double_quant=mode.double_quant, dtype=mode.dtype, compute_dtype=compute
    )
    return quantize.prepare_kbit(model) if mode.kbit_preparation else model


def record(case: Case, *, as_macro: bool = True) -> Tracker:
    """The log of one micro step on fake tensors."""
    mode = case.mode
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(_eager_masks())
        if mode.route == "cuda":
            stack.enter_context(attention.cuda_kernels(cudnn_first=mode.cudnn_first, ampere=not mode.before_ampere))
            stack.enter_context(cuda_autocast())
            stack.enter_context(int8.cuda_matmul())
        if mode.attention == "flash_attention_2":
            stack.enter_context(flash_attention.flash_attention_2())
        model = build_model(case)
        tracker = Tracker(
            num_valid_labels=case.num_valid_labels,
            padded=mode.padded or mode.packing,  # the positions of a packed row are not those of one document either
            replace=_replacements(mode),
            internal=CUDA_BUFFERS if mode.route == "cuda" else None,
            gathers_tokens=mode.attention == "flash_attention_2",
        )
        if mode.loss == "fused":
            stack.enter_context(loss.fused_loss(mode.route, tracker, as_macro=as_macro))
        run_tracked(model, case, tracker)
    return tracker


def _replacements(mode: Mode) -> dict[Any, Any]:
    """Operations that run as another function: opaque ones opened, those whose sizes are data given the most."""
    replace = experts.shaped_kernels({mode.dtype})
    if mode.quant:
        replace |= quantize.opened_kernels(mode.route)
    if mode.attention == "flash_attention_2":
        replace[torch.ops.aten.nonzero.default] = flash_attention.every_index
    return replace


def run_tracked(model: nn.Module, case: Case, tracker: Tracker, *, real: bool = False) -> None:
    """Run one micro step of ``model`` under ``tracker``, its static tensors declared first."""
    declare_static(model, tracker)
    virtual_tokens.declare_indices(model, tracker, case.mode.route)
    config = model.config.get_text_config()
    batch = task_batch(
        case.mode.task,
        model.config.model_type,
        case.batch,
        case.sequence,
        num_labels=case.num_labels or 2,
        target_length=case.target or 2,
        real=real,
        vocab_size=config.vocab_size,
        padded=case.mode.padded,
    )
    if case.documents is not None:
        batch = step.packed_batch(case.sequence, case.documents, real=real, vocab_size=config.vocab_size)
    for tensor in batch.values():
        if isinstance(tensor, torch.Tensor):
            tracker.see(tensor, tag="batch")
    num_items = step.count_items([batch])
    tracker.see(num_items, tag="batch")

    def mark(name: str) -> None:
        if name == plain_loop.AFTER_ANOTHER:
            tracker.carry()
            return
        tracker.where.name, tracker.where.layer = {
            "forward": ("forward.embed", None),
            "backward": ("backward.head", None),
        }.get(name, (name, None))

    with contextlib.ExitStack() as stack:
        stack.enter_context(following(model, tracker))
        stack.enter_context(virtual_tokens.following_prefix(model, tracker))
        if case.mode.quant is not None and case.mode.use_dora:
            stack.enter_context(quantize.opened_dora())
        if case.mode.route == "cpu" and case.mode.gradient_checkpointing:
            stack.enter_context(seen_states(tracker))
        stack.enter_context(exact_lifetimes())
        with tracker:
            held = _run_loop(model, case.mode, batch, num_items, mark)
        tracker.events = list(tracker.events)  # deaths after this point are not part of the step
        del held


def _run_loop(model: nn.Module, mode: Mode, batch: step.Batch, num_items: Any, mark: step.Mark) -> Any:
    """The step as the mode's loop performs it; what that loop holds at its end."""
    if mode.loop == "plain":
        autocast = None if mode.mixed_precision == "no" else TORCH_DTYPES[mode.mixed_precision]
        return plain_loop.two_steps(model, batch, autocast=autocast, scaled=mode.mixed_precision == "fp16", mark=mark)
    if mode.task != "causal-lm":
        return step.micro_step(model, batch, num_items, "model", mark)
    loss_name = "trainer" if mode.loop == "trainer" else mode.loss
    return step.micro_step(model, batch, num_items, loss_name, mark)


def declare_static(model: nn.Module, tracker: Tracker) -> None:
    """Weights, buffers and quantisation state exist before the step."""
    for parameter in model.parameters():
        tracker.see(parameter, tag="weight")
    for buffer in model.buffers():
        tracker.see(buffer, tag="buffer")
    for tensor in quantize.quantization_tensors(model):
        tracker.see(tensor, tag="quantization_state")


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
