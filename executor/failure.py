"""An exception of any library, as what happened and what to do."""

import errno
import sys
from typing import Any

from vramplan.executor.disk import is_disk_full
from vramplan.planner.errors import RunError, VramplanError
from vramplan.planner.memory.budget import PhaseName

SNAPSHOT = "allocator.json"
"""The caching allocator's segments where a worker ran out of memory on a GPU, in the run folder."""
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")


def explain_failure(error: Exception, *, step: int, phase: PhaseName | None) -> VramplanError:
    """The error a person is shown; our own errors pass through.

    Args:
        step: optimizer steps done.
        phase: where the run was; None before it loads anything.
    """
    if isinstance(error, VramplanError):
        return error
    where = _where(step, phase)
    if is_out_of_memory(error):
        return RunError(
            f"out of memory {where}: {first_line(error)}",
            remedy="re-plan with a smaller --micro-batch, with --gradient-checkpointing, or with --method qlora",
        )
    if is_disk_full(error):
        return RunError(
            f"the disk is full {where}: {getattr(error, 'filename', None) or first_line(error)}",
            remedy="free some space, or re-plan with a larger --save-steps or another --output-dir",
        )
    if isinstance(error, OSError) and error.errno in _NOT_WRITABLE:
        return RunError(
            f"cannot write {error.filename or 'a file'} {where}: {error.strerror}",
            remedy="make the folder writable and go on with: vramplan run PLAN --resume",
        )
    if isinstance(error, FileNotFoundError):
        return RunError(f"{error.filename or first_line(error)} is gone", remedy="put it back, or plan again")
    return RunError(
        f"{type(error).__name__} {where}: {first_line(error)}", remedy="the full traceback is in worker.log"
    )


def _where(step: int, phase: PhaseName | None) -> str:
    """Words for a moment of the run."""
    if phase is None:
        return "before the model was loaded"
    outside = {"load": "while loading", "evaluation": "while evaluating", "save": "while saving"}
    return outside.get(phase, f"in {phase.replace('_', ' ')} of step {step + 1}")


def is_out_of_memory(error: Exception) -> bool:
    """CUDA's OutOfMemoryError (a RuntimeError), torch's CPU allocator, bitsandbytes, and Python's own."""
    text = str(error)
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(mark.lower() in text.lower() for mark in _OUT_OF_MEMORY)
    )


def allocator_bytes() -> dict[str, int]:
    """The caching allocator's figures now: allocated, reserved, their peaks, and what the device has free.

    Empty on a CPU, and before torch is loaded.
    """
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return {
        "allocated": torch.cuda.memory_allocated(),
        "reserved": torch.cuda.memory_reserved(),
        "max_allocated": torch.cuda.max_memory_allocated(),
        "max_reserved": torch.cuda.max_memory_reserved(),
        "free": int(free_bytes),
        "total": int(total_bytes),
    }


def allocator_snapshot() -> list[dict[str, Any]]:
    """The caching allocator's segments and blocks now, stacks left out; empty where there is none."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return []
    kept = {"address", "total_size", "allocated_size", "active_size", "segment_type", "size", "state", "blocks"}

    def only(part: dict[str, Any]) -> dict[str, Any]:
        told = {name: value for name, value in part.items() if name in kept and name != "blocks"}
        return told | {"blocks": [only(block) for block in part["blocks"]]} if "blocks" in part else told

    return [only(segment) for segment in torch.cuda.memory_snapshot()]


def first_line(error: Exception) -> str:
    """The first line that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
