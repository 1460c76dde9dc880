"""The compatibility matrix, as a table: what it refuses leads somewhere, and the planner asks it and nothing else."""

import itertools
from typing import Any

import pytest

from tests.fakes import make_cpu, make_device, make_model_spec
from vramplan.planner.errors import UsageError
from vramplan.planner.matrix import RULES, Cell, cell_of, nearest, refusal
from vramplan.planner.methods import QUANTIZABLE
from vramplan.planner.resolve import resolve
from vramplan.planner.runnable import why_not_runnable
from vramplan.planner.workload import Task

METHODS = ["full", "layerwise", "bitfit", "ln-tuning", "lora", "qlora", "adapter", "ia3", "prefix", "prompt", "ptuning"]
TASKS = ("causal-lm", "classification", "seq2seq")
QUANTS = (None, "nf4", "fp4", "int8")
PRECISIONS = [(dtype, mixed) for dtype in ("fp32", "bf16", "fp16") for mixed in ("no", "bf16", "fp16")]
DEVICES: dict[str, dict[str, Any]] = {
    "cpu": {"device": "cpu", "bf16_native": True},
    "Turing": {"device": "cuda", "bf16_native": False},
    "Ampere": {"device": "cuda", "bf16_native": True, "bnb_4bit": True},
    "without bitsandbytes": {"device": "rocm", "bf16_native": True, "bnb_4bit": False},
}
NOT_ASKED = {"adapter_dtype": "fp32", "checkpoints": None, "finds_last_token": None, "keeps_fp32": None}
AXES = (METHODS, TASKS, (False, True), (False, True), QUANTS, PRECISIONS, ("fp32", "bf16"), (1, 4), DEVICES)


def every_cell() -> list[Cell]:
    return [
        Cell(
            method=method,
            task=task,  # type: ignore[arg-type]
            gradient_checkpointing=checkpointing,
            packing=packing,
            quant=quant,  # type: ignore[arg-type]
            dtype=precision[0],  # type: ignore[arg-type]
            mixed_precision=precision[1],  # type: ignore[arg-type]
            adapter_dtype=adapter_dtype,  # type: ignore[arg-type]
            micro_batch_size=rows,
            finds_last_token=True,
            **DEVICES[device],
        )
        for method, task, checkpointing, packing, quant, precision, adapter_dtype, rows, device in itertools.product(
            *AXES
        )
    ]


def test_every_refusal_says_why_and_leads_to_an_allowed_cell() -> None:
    used: set[str] = set()
    for cell in every_cell():
        rule = refusal(cell)
        if rule is None:
            continue
        used.add(rule.name)
        assert refusal(nearest(cell)) is None, (rule.name, cell)
        assert nearest(cell).task == cell.task
        assert "{" not in rule.words(cell)
    needs_a_model = {
        "nothing for BitFit to train",
        "no checkpointing in this class",
        "linears that are never quantised",
        "IA3's fp32 outputs before a half-precision LayerNorm",
    }
    assert used | needs_a_model == {rule.name for rule in RULES}


def test_what_is_not_known_is_not_refused() -> None:
    assert refusal(Cell(method="bitfit")) is None
    assert refusal(Cell(method="qlora", quant="nf4", dtype="bf16")) is None
    assert refusal(Cell(method="bitfit", has_biases=False)) is not None
    assert refusal(Cell(method="lora", checkpoints=False)) is not None


def given(cell: Cell) -> dict[str, Any]:
    """The options that ask for a cell."""
    options: dict[str, Any] = {
        "method": cell.method,
        "gradient_checkpointing": cell.gradient_checkpointing,
        "packing": cell.packing or None,
        "dtype": cell.dtype,
        "mixed_precision": cell.mixed_precision,
        "micro_batch": cell.micro_batch_size,
    }
    return options | ({"quant": cell.quant} if cell.quant is not None else {})


@pytest.mark.parametrize("method", METHODS)
def test_the_planner_refuses_what_the_matrix_refuses_and_nothing_else(method: str) -> None:
    llama = make_model_spec()
    devices = {"cpu": make_cpu(), "Turing": make_device(bf16_native=False, bnb_4bit=True), "Ampere": make_device()}
    for device, checkpointing, packing, quant, (dtype, mixed) in itertools.product(
        devices, (False, True), (False, True), QUANTS, PRECISIONS
    ):
        if method == "lora" and quant is not None:
            continue  # that is QLoRA by another name
        if method == "qlora" and quant is None:
            continue
        here = devices[device]
        cell = Cell(
            method=method,
            gradient_checkpointing=checkpointing,
            packing=packing,
            quant=quant,  # type: ignore[arg-type]
            dtype=dtype,
            mixed_precision=mixed,
            device=here.kind,
            bf16_native=here.bf16_native,
            bnb_4bit=here.bnb_4bit,
            has_biases=False,
            layer_norms=False,
        )
        found, refused = None, None
        try:
            found = resolve(given(cell), llama, here)
        except UsageError as error:
            refused = error
        assert (refused is None) == (refusal(cell) is None), (cell, refused)
        if found is None:
            assert refused is not None
            assert refused.remedy
            continue
        at = cell_of(found.setup, found.workload, model_type="llama", device=here, model=llama)
        assert at.model_copy(update=NOT_ASKED) == cell


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_run_and_not_only_priced(task: Task) -> None:
    setup = resolve({"method": "lora"}, make_model_spec(), make_cpu()).setup
    assert why_not_runnable(setup, task, make_model_spec()) is None


def test_quantisable_methods_are_the_ones_whose_base_is_frozen() -> None:
    allowed = {cell.method for cell in every_cell() if cell.quant is not None and refusal(cell) is None}
    assert allowed == set(QUANTIZABLE) - {"lora"}
