"""One-operation tests: only what a plan needs is tried, in a child; a kernel that is missing blocks with its remedy."""

import sys
from pathlib import Path

import pytest

from tests.executor.factories import make_device, make_plan, make_setup
from vramplan.executor.smoke_checks import needed_operations, smoke_checks
from vramplan.planner.methods import Full, Lora, Qlora

CARD = make_device(kind="cuda", name="NVIDIA A10")


@pytest.mark.parametrize(
    ("setup", "device", "names"),
    [
        (make_setup(Lora(r=8)), make_device(), ()),
        (make_setup(Lora(r=8)), CARD, ("matmul",)),
        (make_setup(Qlora(r=8)), make_device(), ("4-bit",)),
        (make_setup(Qlora(r=8, quant="int8")), CARD, ("matmul", "8-bit")),
        (make_setup(Full(), optimizer="adamw_8bit"), make_device(), ("8-bit optimizer",)),
        (make_setup(Lora(r=8), attention="flash_attention_2"), CARD, ("matmul", "flash attention")),
    ],
)
def test_what_a_plan_needs_is_tried_and_nothing_else(
    setup: object, device: object, names: tuple[str, ...], tmp_path: Path
) -> None:
    assert needed_operations(make_plan(tmp_path, setup=setup, device=device)) == names  # type: ignore[arg-type]


def test_a_child_that_dies_blocks_with_its_last_words_and_a_remedy(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, setup=make_setup(Qlora(r=8)))
    command = (sys.executable, "-c", "import sys; sys.exit('libbitsandbytes_cpu.so: cannot open shared object file')")
    (check,) = smoke_checks(plan, make_device(), command=command)
    assert (check.name, check.verdict) == ("4-bit", "blocks")
    assert "cannot open shared object" in check.found
    assert "--method lora" in str(check.remedy)


def test_a_plain_plan_starts_no_child(tmp_path: Path) -> None:
    assert smoke_checks(make_plan(tmp_path), make_device(), command=("/no/such/program",)) == ()


@pytest.mark.train
def test_quantised_kernels_run_here_and_flash_attention_does_not(tmp_path: Path) -> None:
    setup = make_setup(Qlora(r=8), optimizer="adamw_8bit", attention="flash_attention_2")
    found = {check.name: check for check in smoke_checks(make_plan(tmp_path, setup=setup), make_device())}
    assert {name: check.verdict for name, check in found.items()} == {
        "4-bit": "ok",
        "8-bit optimizer": "ok",
        "flash attention": "blocks",
    }
    assert "flash_attn" in found["flash attention"].found
