"""An adapter folded into its base, on the host: W + (alpha / r) B A, each weight added in fp32 and rounded once.

A quantised base is dequantised first: the adapter learnt beside those values, not beside the ones they were rounded
from, and a sum rounded back to 4 bits would lose most of it. The result is an ordinary folder: config, safetensors
shards, generation config, tokenizer.
"""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vramplan.executor.failure import first_line
from vramplan.executor.finished_model import load_for_use, tokenizer_of
from vramplan.executor.merge_request import MergeRequest
from vramplan.executor.new_folder import new_folder
from vramplan.executor.torch_dtypes import torch_dtype
from vramplan.planner.errors import RunError
from vramplan.planner.methods import quant_of


def merge(request: MergeRequest, say: Callable[[str], None]) -> None:
    """Load, merge and write; ``request.output`` appears whole or not at all.

    Raises:
        PlanError: the plan file cannot be trusted.
        ModelMissingError: the base is not where the plan says.
        RunError: the adapter does not fit it, or holds NaNs.
        UsageError: something is at ``request.output`` already.
    """
    plan, adapter = request.run.plan(), Path(request.run.result)
    say(f"loading {plan.model.repo_id} into host memory")
    base = load_for_use(plan, device="cpu")
    transposed = _conv1d_names(base)
    if quant_of(plan.setup.method) is not None:
        say("dequantising the base")
        base = dequantised(base)
    planned, wanted = torch_dtype(plan.setup.precision.dtype), torch_dtype(request.dtype)
    # Weights that the model itself keeps in fp32 stay so.
    dtypes = {name: wanted if p.dtype == planned else p.dtype for name, p in base.named_parameters()}
    say("merging")
    model = merged(base, adapter, dtypes)
    _restore_conv1d(model, transposed)
    say(f"writing {request.output}")
    with new_folder(Path(request.output)) as folder:
        model.save_pretrained(folder, max_shard_size=request.max_shard_bytes)
        tokenizer_of(request.run, plan).save_pretrained(folder)


def dequantised(base: Any) -> Any:
    """The base with ordinary linears that hold what its quantised ones compute with."""
    base = base.dequantize()
    # transformers refuses to save, and PEFT to merge, a model that still says it is quantised
    for name in ("is_quantized", "quantization_method", "is_loaded_in_4bit", "is_loaded_in_8bit"):
        base.__dict__.pop(name, None)
    return base


def merged(base: Any, adapter: Path, dtypes: dict[str, Any]) -> Any:
    """The base with the adapter in its weights, every parameter in the dtype it is to have.

    Raises:
        RunError: the adapter does not fit the base, or holds NaNs.
    """
    import torch
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

    names = {id(module): name for name, module in base.named_modules()}
    try:
        tuned = PeftModel.from_pretrained(base, adapter)
        for layer in [module for module in tuned.modules() if isinstance(module, BaseTunerLayer)]:
            inner = layer.get_base_layer()
            dtype = dtypes.get(f"{names[id(inner)]}.weight")
            if dtype is not None:
                inner.weight.data = inner.weight.data.to(torch.float32)
            layer.merge(safe_merge=True)
            if dtype is not None:
                layer.get_base_layer().to(dtype)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="All adapters are already merged")
            model = tuned.merge_and_unload()
    except (ValueError, RuntimeError) as error:
        raise RunError(
            f"{adapter} cannot be merged into this base: {first_line(error)}",
            remedy="merge into the very base it was trained on",
        ) from error
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(dtypes.get(name, parameter.dtype))
    return model


def _conv1d_names(base: Any) -> list[str]:
    """Linears that stand where the model has transformers' Conv1D (GPT-2), whose weight is (in, out)."""
    from transformers.pytorch_utils import Conv1D

    quantised = ((name, getattr(module, "source_cls", None)) for name, module in base.named_modules())
    return [name for name, source in quantised if source is not None and issubclass(source, Conv1D)]


def _restore_conv1d(model: Any, names: list[str]) -> None:
    """Put each Conv1D back, so that the file holds its weight the way the architecture reads it."""
    from transformers.pytorch_utils import Conv1D

    for name in names:
        linear = model.get_submodule(name)
        conv1d = Conv1D(0, 0)
        conv1d.nf, conv1d.nx = linear.out_features, linear.in_features
        conv1d.weight.data = linear.weight.data.T.contiguous()
        conv1d.bias.data = linear.bias.data
        model.set_submodule(name, conv1d)
