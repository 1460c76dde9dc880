"""What a merge is asked to do, whether it can be, and what it takes: decided before anything is loaded.

memory   every parameter in the wider of the base's dtype and the file's, as the merge is done on the host;
         the adapter in fp32; the largest adapted linear three times in fp32: itself, the sum and the product of the
         factors (peft/tuners/lora/layer.py, merge with safe_merge); the libraries themselves
disk     every parameter in the file's dtype, the tokenizer and the config
"""

from pathlib import Path

from vramplan.executor.disk import free_bytes
from vramplan.executor.finished import ADAPTER_WEIGHTS, FinishedRun, Tuned
from vramplan.executor.folder_size import folder_bytes
from vramplan.planner.adapters.host import read_host_memory
from vramplan.planner.adapters.safetensors_headers import TensorInfo, read_header
from vramplan.planner.dtypes import BYTES, FloatDtype
from vramplan.planner.errors import PreflightError, UnsupportedError, UsageError
from vramplan.planner.memory.static import base_dtype
from vramplan.planner.method_facts import facts_of
from vramplan.planner.units import MIB, format_bytes
from vramplan.planner.values import Value

LIBRARIES_BYTES = 900 * MIB
"""Room for the libraries themselves: merging a model of a few kilobytes took 418 MiB on a CPU build of torch 2.13, and
a CUDA build maps more. A model of 513 MiB in fp32 took 1,128 MiB where this allows 1,434."""
BESIDE_THE_WEIGHTS_BYTES = 64 * MIB
"""Room for the tokenizer, the config and the headers of the shards."""


class MergeRequest(Value):
    """One merge, as the child process is told it."""

    run: Tuned
    output: str
    dtype: FloatDtype
    """Of the merged weights."""
    max_shard_bytes: int


def check_mergeable(run: FinishedRun) -> None:
    """The run's adapter can be folded into the weights of its base.

    Raises:
        UnsupportedError: it cannot, or there is no adapter.
    """
    facts = facts_of(run.plan.setup.method.kind)
    if run.whole:
        raise UnsupportedError(
            f"{run.name} trained the model's own weights: there is nothing to merge",
            remedy=f"its result is a whole model already: {run.result}",
        )
    if not facts.mergeable:
        raise UnsupportedError(
            f"{run.name} cannot be merged: {facts.mergeable_because}",
            remedy=f"keep the adapter beside its base: vramplan merge {run.folder} --adapter-only, or vramplan chat",
        )


def merged_bytes(run: FinishedRun, dtype: FloatDtype) -> int:
    """Bytes on disk of the merged model."""
    return run.plan.model.total_params * BYTES[dtype] + BESIDE_THE_WEIGHTS_BYTES


def merging_bytes(run: FinishedRun, dtype: FloatDtype) -> int:
    """The most host memory that merging takes."""
    adapter = read_header(run.result / ADAPTER_WEIGHTS)
    widest = max(BYTES[base_dtype(run.plan.setup)], BYTES[dtype])
    held = run.plan.model.total_params * widest + 4 * sum(tensor.numel for tensor in adapter.values())
    return held + 3 * 4 * largest_product(adapter) + LIBRARIES_BYTES


def largest_product(adapter: dict[str, TensorInfo]) -> int:
    """Numbers in the largest B A of a LoRA's file; 0 for methods without factors.

    >>> largest_product({"q.lora_A.weight": TensorInfo("F32", (8, 64)), "q.lora_B.weight": TensorInfo("F32", (32, 8))})
    2048
    """
    columns = {name: tensor.shape[-1] for name, tensor in adapter.items() if "lora_A" in name}
    return max(
        (
            tensor.shape[0] * columns.get(name.replace("lora_B", "lora_A"), 0)
            for name, tensor in adapter.items()
            if "lora_B" in name
        ),
        default=0,
    )


def check_room(run: FinishedRun, output: Path, dtype: FloatDtype) -> None:
    """There is room for the merge and for its result.

    Raises:
        PreflightError: memory or disk is short.
    """
    needed, available = merging_bytes(run, dtype), read_host_memory().available_bytes
    if needed > available:
        raise PreflightError(
            f"merging {run.name} in {dtype} takes {format_bytes(needed)} of host memory, "
            f"{format_bytes(available)} are available",
            remedy="free some, merge on a larger machine, or keep the adapter apart: --adapter-only",
        )
    check_disk(output, merged_bytes(run, dtype))


def check_disk(output: Path, needed_bytes: int) -> None:
    """There is room on the disk of ``output``.

    Raises:
        PreflightError: there is not.
    """
    free = free_bytes(output.absolute().parent)
    if needed_bytes > free:
        raise PreflightError(
            f"writing {output} takes {format_bytes(needed_bytes)}, {format_bytes(free)} are free there",
            remedy="free some space, or choose another disk with -o",
        )


def adapter_bytes(run: FinishedRun) -> int:
    """Bytes of the adapter's folder without its checkpoints."""
    return folder_bytes(str(run.result), but="checkpoint-")


def check_output(output: Path) -> None:
    """Nothing is in the way.

    Raises:
        UsageError: something is.
    """
    if output.exists():
        raise UsageError(f"{output} exists already", remedy="choose another folder with -o, or remove it")
