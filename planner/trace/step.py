"""One training step as trl's SFTTrainer performs it, as far as memory can tell: the code that is traced on fake tensors
and tracked on real ones. Checked against the real trainer in the tests.

Sources: trl/trainer/sft_trainer.py compute_loss; transformers/trainer.py _inner_training_loop, training_step,
compute_loss; accelerate/data_loader.py (one batch is fetched ahead).
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

Batch = dict[str, torch.Tensor]
Mark = Callable[[str], None]


def _sft_loss(model: nn.Module, inputs: dict[str, Any], num_items: torch.Tensor) -> torch.Tensor:
    """SFTTrainer.compute_loss on one process: the loss, then its metrics. Everything but the loss dies on return."""
    inputs["use_cache"] = False
    outputs = model(**inputs, fused_lm_head=True)
    per_token_loss = -outputs.log_probs
    loss = per_token_loss.sum() / torch.as_tensor(num_items).clamp(min=1)
    loss = loss * 1  # average_tokens_across_devices with one process
    num_valid = outputs.label_mask.sum().sum()
    entropy_sum = outputs.entropy.detach().sum().sum()
    num_correct = outputs.is_top1.sum().sum()
    _ = (entropy_sum / num_valid).item() if num_valid > 0 else 0.0
    _ = (num_correct / num_valid).item() if num_valid > 0 else 0.0
    if "attention_mask" in inputs:
        inputs["attention_mask"].sum().sum().item()
    else:
        torch.tensor(inputs["position_ids"].size(1)).sum().item()
    return loss


def _standard_loss(model: nn.Module, inputs: dict[str, Any], num_items: torch.Tensor) -> torch.Tensor:
    """transformers.Trainer.compute_loss: the model's own loss on full logits."""
    inputs["use_cache"] = False
    outputs = model(**inputs, num_items_in_batch=num_items)
    loss: torch.Tensor = outputs["loss"]
    return loss * 1


def _trainer_loss(model: nn.Module, inputs: dict[str, Any], num_items: torch.Tensor) -> torch.Tensor:
    """The same in a stock Trainer, which turns the cache off in the config (transformers/trainer.py, __init__) and
    scales the loss in place."""
    outputs = model(**{**inputs, "num_items_in_batch": num_items})
    loss: torch.Tensor = outputs["loss"]
    loss *= 1
    return loss


def _model_loss(model: nn.Module, inputs: dict[str, Any], num_items: torch.Tensor) -> torch.Tensor:
    """Trainer.compute_loss and training_step: the model's own loss, told how many items count if the model listens."""
    accepts = _accepts_loss_kwargs(model)
    outputs = model(**inputs, **({"num_items_in_batch": num_items} if accepts else {}))
    loss: torch.Tensor = outputs["loss"]
    if accepts:
        loss *= 1  # average_tokens_across_devices with one process
        return loss
    return loss / 1  # gradient_accumulation_steps


def _accepts_loss_kwargs(model: nn.Module) -> bool:
    base: Any = model.get_base_model() if hasattr(model, "get_base_model") else model
    if hasattr(base, "accepts_loss_kwargs"):
        return bool(base.accepts_loss_kwargs)
    forward = getattr(type(base), "forward", base.forward)  # the instance's own may be wrapped for autocast
    parameters = inspect.signature(forward).parameters.values()
    return any(parameter.kind == inspect.Parameter.VAR_KEYWORD for parameter in parameters)


LOSSES: dict[str, Callable[[nn.Module, dict[str, Any], torch.Tensor], torch.Tensor]] = {
    "fused": _sft_loss,
    "standard": _standard_loss,
    "liger": _standard_loss,
    "trainer": _trainer_loss,
    "model": _model_loss,
}


def micro_step(model: nn.Module, batch: Batch, num_items: torch.Tensor, loss: str, mark: Mark) -> torch.Tensor:
    """Forward, loss and backward of one micro batch (Trainer.training_step)."""
    model.train()
    mark("forward")
    value = LOSSES[loss](model, dict(batch), num_items)
    mark("backward")
    value.backward()
    mark("end")
    return value.detach()


def count_items(batches: list[Batch]) -> torch.Tensor:
    """Labels that count, over the micro batches of one optimizer step (Trainer.get_batch_samples)."""
    total = sum(batch["labels"][..., 1:].ne(-100).sum() for batch in batches)
    assert isinstance(total, torch.Tensor)
    return total / 1


def optimizer_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, max_grad_norm: float, mark: Mark
) -> torch.Tensor | None:
    """Clip, step, clear (Trainer._inner_training_loop)."""
    mark("clip")
    norm = None
    if max_grad_norm > 0:
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
    mark("optimizer_step")
    optimizer.step()
    model.zero_grad()
    mark("end")
    return norm


def training_step(
    model: nn.Module,
    batches: list[Batch],
    optimizer: torch.optim.Optimizer,
    total_loss: torch.Tensor,
    *,
    loss: str,
    max_grad_norm: float = 1.0,
    mark: Mark = lambda name: None,
) -> torch.Tensor | None:
    """One optimizer step over its micro batches; returns the gradient norm, as the loop keeps it."""
    num_items = count_items(batches)
    for batch in batches:
        step_loss = micro_step(model, batch, num_items, loss, mark)
        _ = bool(torch.isnan(step_loss) or torch.isinf(step_loss))
        total_loss += step_loss
    return optimizer_step(model, optimizer, max_grad_norm=max_grad_norm, mark=mark)


def packed_batch(length: int, documents: int, *, real: bool = False, vocab_size: int = 100) -> dict[str, Any]:
    """A row of ``length`` tokens made of documents, as TRL's collator sends it when it packs: no mask, but positions,
    int64 (1, length), each token's document, int32 (1, length), and where documents end, int32 (documents + 1), twice
    (trl/trainer/sft_trainer.py, DataCollatorForLanguageModeling with padding_free)."""
    if not real:
        batch: dict[str, Any] = {
            name: torch.empty((1, length), dtype=torch.long) for name in ("input_ids", "labels", "position_ids")
        }
        batch["seq_idx"] = torch.empty((1, length), dtype=torch.int32)
        batch |= {name: torch.empty(documents + 1, dtype=torch.int32) for name in ("cu_seq_lens_q", "cu_seq_lens_k")}
        return batch | {"max_length_q": length, "max_length_k": length}
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    sizes = [length // documents] * (documents - 1)
    sizes.append(length - sum(sizes))
    ids = torch.randint(3, vocab_size, (length,)).tolist()
    collate = DataCollatorForLanguageModeling(pad_token_id=0, padding_free=True)
    made: dict[str, Any] = collate([{"input_ids": ids, "labels": ids, "seq_lengths": sizes}])
    made["cu_seq_lens_k"] = made["cu_seq_lens_q"].clone()  # accelerate copies each to the device
    return made


def language_batch(
    batch_size: int, sequence_length: int, *, real: bool = False, vocab_size: int = 100, padded: bool = False
) -> Batch:
    """Token ids, labels and an attention mask, as TRL's collator always sends them; int64 (B, S). The mask is ones, but
    for the end of the first row when real and padded."""
    shape = (batch_size, sequence_length)
    if real:
        ids = torch.randint(3, vocab_size, shape)
        mask = torch.ones_like(ids)
        if padded:
            mask[0, -1] = 0
        return {"input_ids": ids, "labels": ids.clone(), "attention_mask": mask}
    return {name: torch.empty(shape, dtype=torch.long) for name in ("input_ids", "labels", "attention_mask")}
