"""ModelSpec: one model at one revision, down to every weight. Static memory is counted from this, never guessed."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any, Literal

from pydantic import Field

from vramplan.planner.dtypes import Dtype
from vramplan.planner.values import Value

ModuleKind = Literal["linear", "linear_subclass", "embedding", "norm", "conv", "experts", "other"]
"""What holds the weight: ``linear`` is exactly ``torch.nn.Linear`` (what LoRA's all-linear and bitsandbytes
look for), ``linear_subclass`` a class derived from it (LoRA's all-linear takes it, bitsandbytes does not: Falcon),
``conv`` a convolution or transformers' ``Conv1D`` (GPT-2: a linear layer stored (in, out), which both take, told by
its two-dimensional weight), ``experts`` a fused mixture-of-experts parameter (never quantised by bitsandbytes)."""


class Weight(Value):
    """One parameter, or the same parameter in several layers.

    ``name`` is the dotted name in the transformers model, with ``{layer}`` standing for the index of the
    decoder/encoder layer when ``layers`` is not empty. Tied parameters appear once, under their first name.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Dtype
    module: ModuleKind
    layers: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """How many tensors this stands for."""
        return len(self.layers) or 1

    @property
    def numel(self) -> int:
        """Elements of one tensor."""
        product = 1
        for size in self.shape:
            product *= size
        return product


class Provenance(Value):
    """Where a ModelSpec comes from and how well it is known."""

    source: Literal["catalogue", "folder", "hub"]
    location: str
    """Catalogue id, folder path or Hub id."""
    parameters_basis: str
    """How the parameter count is known, in words."""
    config_basis: str | None = None
    """How the config is known, in words."""
    unverified_fields: tuple[str, ...] = ()
    """config.json fields nobody checked against the Hub."""
    note: str | None = None
    """Why the published count differs from what transformers instantiates, when it does."""


class ModelSpec(Value):
    """One model: its config in Hugging Face's own field names and every weight transformers would instantiate."""

    repo_id: str
    revision: str | None = None
    """A commit hash, never a branch; None: unpinned (catalogue) or a local folder."""
    model_type: str
    architecture: str
    """The transformers class, e.g. ``LlamaForCausalLM``."""
    config: dict[str, Any]
    """config.json as it is, text fields only; never a reason to run code."""
    weights: tuple[Weight, ...]
    checkpoint_dtype: Dtype
    """The dtype the checkpoint stores."""
    quantization: str | None = None
    """quant_method of an already quantised checkpoint (gptq, awq, fp8, mxfp4 ...)."""
    requires_remote_code: bool = False
    license: str | None = None
    gated: bool | None = None
    published_params: int | None = None
    """Elements the published checkpoint holds, buffers and duplicates included, where known exactly."""
    output_embedding: str | None = None
    """The module that makes the logits (``lm_head``), tied or not: all-linear and bitsandbytes leave it alone."""
    provenance: Provenance
    context_length: int | None = Field(default=None)

    @cached_property
    def total_params(self) -> int:
        """Logical base parameters: tied tensors once, 4-bit unpacked, adapters apart."""
        return sum(weight.numel * weight.count for weight in self.weights)

    def tensors(self) -> Iterator[tuple[str, Weight]]:
        """Every tensor as (full name, its Weight)."""
        for weight in self.weights:
            if weight.layers:
                for layer in weight.layers:
                    yield weight.name.replace("{layer}", str(layer)), weight
            else:
                yield weight.name, weight
