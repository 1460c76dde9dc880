"""What a memory program is a program *of*: the structure of a model and the mode it is trained in, sizes left out.

Two setups with the same key differ only in sizes, so one program serves both.
"""

import hashlib
import json
from typing import Any, Literal

from vramplan.planner.device import Route
from vramplan.planner.dtypes import FloatDtype
from vramplan.planner.methods import AdapterKind, EncoderType, NonLinearity, Targets
from vramplan.planner.training_setup import Attention, Loop, Loss
from vramplan.planner.values import Value
from vramplan.planner.workload import Task


class Mode(Value):
    """How it is trained, sizes (rank, batch, sequence) left out."""

    route: Route
    method: Literal["full", "lora", "qlora", "adapter", "ia3", "ln-tuning", "bitfit", "prefix", "prompt", "ptuning"]
    target_modules: Targets = "all-linear"
    use_dora: bool = False
    dropout: bool = False
    quant: Literal["nf4", "fp4", "int8"] | None = None
    double_quant: bool = False
    dtype: FloatDtype = "bf16"
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    adapter_dtype: FloatDtype | None = None
    gradient_checkpointing: bool = True
    attention: Attention = "sdpa"
    cudnn_first: bool = False
    """sdpa takes cuDNN's kernel before FlashAttention, and the step has what tells the two apart: a mask, or heads of
    two sizes."""
    before_ampere: bool = False
    """sdpa has no FlashAttention and no bf16 in its memory-efficient kernel, and the step has half precision."""
    loss: Loss = "fused"
    loop: Loop = "executor"
    padded: bool = False
    kbit_preparation: bool = False
    packing: bool = False
    """Documents in one row without padding, their ends beside it."""
    feedforward_modules: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    trainable_tokens: bool = False
    """Some rows of the embeddings train beside the adapter."""
    adapter_kind: AdapterKind | None = None
    non_linearity: NonLinearity | None = None
    encoder: EncoderType | None = None
    """The network behind p-tuning's virtual tokens."""
    task: Task = "causal-lm"
    last_blocks: bool = False
    """Of the base only the last blocks train, those whose kind is not frozen."""


class Structure(Value):
    """A model without its sizes: config fields that decide which operations run, not how large they are."""

    model_type: str
    fields: dict[str, Any]
    """Structural config fields (hidden_act, tie_word_embeddings, attention_bias ...)."""
    kinds: tuple[str, ...]
    """The kind of each layer, shortened to the shortest stack that shows every neighbourhood of the real one."""
    heads: Literal["mha", "gqa", "mqa"] | None = None
    aligned_heads: bool = True
    """head_dim is a multiple of 8 and at most 256: FlashAttention takes it as it is."""
    single_row: bool
    """Micro batch of one: some copies are not made."""
    windowed: bool
    """The sequence is longer than a sliding window, so those layers need a mask."""
    config: dict[str, Any] | None = None
    """The whole config, for families whose sizes are not variables: the program is this model's alone."""
    length: int | None = None
    """The one sequence length it is for, where the number of operations follows the length."""
    kept: tuple[int, ...] = ()
    """Then: which layers of the model make the short stack ``kinds``."""


class ProgramKey(Value):
    """Structure x mode."""

    structure: Structure
    mode: Mode

    def digest(self) -> str:
        """16 hex digits of the sha256 of the canonical JSON. Defaults are left out, so that a new axis leaves the
        programs of its default where they are."""
        content = self.model_dump(mode="json", exclude_defaults=True)
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]
