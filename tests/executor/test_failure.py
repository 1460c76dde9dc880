"""What went wrong, in words a person can use."""

import errno

import pytest

from vramplan.executor.failure import explain_failure
from vramplan.planner.errors import BadDataError


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_every_way_to_run_out_of_memory_is_recognised(error: Exception) -> None:
    explained = explain_failure(error, step=4, phase="backward")
    assert explained.message.startswith("out of memory in backward of step 5")
    assert explained.remedy
    assert "--micro-batch" in explained.remedy


def test_a_full_disk_says_so() -> None:
    explained = explain_failure(OSError(errno.ENOSPC, "No space left", "/runs/x"), step=9, phase="save")
    assert explained.message == "the disk is full while saving: /runs/x"


def test_anything_else_names_its_type_and_the_log() -> None:
    explained = explain_failure(ValueError("\nshapes differ\nmore"), step=0, phase=None)
    assert explained.message == "ValueError before the model was loaded: shapes differ"
    assert explained.remedy == "the full traceback is in worker.log"


def test_our_own_errors_pass_through() -> None:
    error = BadDataError("row 3: no text", remedy="fill it in")
    assert explain_failure(error, step=0, phase=None) is error
