"""Messages that PyTorch really printed, of each form it has had, and what is read from them."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fakes import make_plan
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import UsageError
from vramplan.planner.oom import findings, read_message
from vramplan.planner.units import GIB, MIB

SINCE_2_1 = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.55 GiB of which 1.65 GiB is "
    "free. Process 5906 has 293.38 MiB memory in use. Process 343080 has 9.54 MiB memory in use. Including non-PyTorch "
    "memory, this process has 21.22 GiB memory in use. Of the allocated memory 20.04 GiB is allocated by PyTorch, and "
    "903.34 MiB is reserved by PyTorch but unallocated."
)
UNTIL_2_0 = (
    "CUDA out of memory. Tried to allocate 1.39 GiB (GPU 0; 6.00 GiB total capacity; 4.04 GiB already allocated; "
    "478.00 MiB free; 4.15 GiB reserved in total by PyTorch) If reserved memory is >> allocated memory try setting"
)
IN_A_CONTAINER = (
    "CUDA out of memory. Tried to allocate 224.00 MiB. GPU  has a total capacity of 44.34 GiB of which 160.81 MiB is "
    "free. Process 47694 has 44.17 GiB memory in use. Of the allocated memory 43.36 GiB is allocated by PyTorch, and "
    "396.27 MiB is reserved by PyTorch but unallocated."
)
MISSPELT = (
    "CUDA out of memory. Tried to allocate 1.70 GiB. GPU 0 has a total capacty of 6.00 GiB of which 0 bytes is free. "
    "Of the allocated memory 2.93 GiB is allocated by PyTorch, and 2.30 GiB is reserved by PyTorch but unallocated."
)
STEP = """  File "/usr/lib/python3/site-packages/torch/optim/adamw.py", line 220, in step
    adamw(
"""
BACKWARD = """  File "train.py", line 9, in <module>
    loss.backward()
  File "/usr/lib/python3/site-packages/torch/autograd/graph.py", line 829, in _engine_run_backward
"""


def test_every_figure_of_a_message_is_read() -> None:
    oom = read_message(SINCE_2_1)
    assert oom.asked_bytes == 2 * GIB
    assert oom.total_bytes == int(23.55 * GIB)
    assert oom.free_bytes == int(1.65 * GIB)
    assert oom.unallocated_bytes == pytest.approx(903.34 * MIB, abs=1)
    assert [(one.pid, one.held_bytes // MIB) for one in oom.holders] == [(5906, 293), (343080, 9)]
    # 21.22 - 20.04 GiB - 903.34 MiB, and 23.55 - 1.65 - 21.22 GiB: by hand
    assert oom.outside_bytes == pytest.approx(304.98 * MIB, rel=1e-3)
    assert oom.others_bytes == pytest.approx(0.68 * GIB, rel=1e-3)


def test_the_older_form_and_the_misspelt_one_are_read() -> None:
    old, misspelt = read_message(UNTIL_2_0), read_message(MISSPELT)
    assert (old.total_bytes, old.free_bytes) == (6 * GIB, 478 * MIB)
    assert old.unallocated_bytes == pytest.approx(0.11 * GIB, rel=1e-3)
    assert (misspelt.total_bytes, misspelt.free_bytes) == (6 * GIB, 0)


def test_in_a_container_the_process_that_holds_it_all_is_this_one() -> None:
    oom = read_message(IN_A_CONTAINER)
    assert oom.process_bytes == pytest.approx(44.17 * GIB, abs=1)
    assert oom.holders == ()


def test_a_message_that_was_wrapped_is_read_as_well() -> None:
    assert read_message(SINCE_2_1.replace(" ", "\n")).free_bytes == read_message(SINCE_2_1).free_bytes


def test_the_last_of_several_is_read_with_the_traceback_above_it() -> None:
    oom = read_message(BACKWARD + UNTIL_2_0 + "\n" + STEP + SINCE_2_1)
    assert (oom.phase, oom.asked_bytes) == ("optimizer_step", 2 * GIB)
    assert read_message(BACKWARD + UNTIL_2_0).phase == "backward"
    assert read_message(SINCE_2_1).phase is None


def test_what_it_means_names_fragmentation_and_other_processes_where_they_decided() -> None:
    told = " ".join(findings(read_message(BACKWARD + SINCE_2_1)))
    assert "fragmentation" in told
    assert "other processes held 696.32 MiB: without them this would have fitted" in told
    assert "--gradient-checkpointing" in told
    alone = " ".join(findings(read_message(UNTIL_2_0)))
    assert "fragmentation" not in alone
    assert alone == "short by 945.36 MiB"


def test_beside_a_plan_what_the_plan_never_had_is_said() -> None:
    plan = make_plan()
    told = " ".join(findings(read_message(SINCE_2_1), plan))
    # 22.04 GiB against the made-up plan's peak of 11.25 GiB
    assert "22.04 GiB would have been allocated; the plan says 11.25 GiB at its peak: 10.79 GiB are not of" in told


def test_a_file_without_a_message_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "worker.log"
    log.write_bytes(b"\xff\x00 all went well")
    assert run_command(["explain", "--oom", str(log)]) == 2
    assert "no PyTorch out-of-memory message" in capsys.readouterr().err
    assert run_command(["explain", "--oom", str(tmp_path)]) == 2
    assert run_command(["explain"]) == 2
    log.write_text("x" * 100 + BACKWARD + SINCE_2_1)
    assert run_command(["explain", "--oom", str(log)]) == 0
    assert "in backward" in capsys.readouterr().out


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for full in (text, "CUDA out of memory. Tried to allocate 1.00 GiB. " + text):
        with contextlib.suppress(UsageError):
            list(findings(read_message(full)))
