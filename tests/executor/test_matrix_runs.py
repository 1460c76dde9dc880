"""The compatibility matrix against reality: every cell it allows on a CPU trains, every rule of it is seen to hold."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.executor.factories import make_budget, make_device, make_plan, write_jsonl
from tests.executor.task_worlds import CONFIGS, SEQUENCE_LENGTH, TARGET_LENGTH, make_model, rows_of
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Event
from vramplan.executor.process import Stop
from vramplan.executor.worker import Work
from vramplan.planner.adapters.datasets import read_data_file
from vramplan.planner.adapters.folder import read_folder
from vramplan.planner.adapters.tasks import model_for_task
from vramplan.planner.matrix import RULES, Cell, refusal
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport
from vramplan.planner.resolve import resolve
from vramplan.planner.training_setup import Precision

torch = pytest.importorskip("torch")
LOADED = pytest.importorskip("vramplan.executor.guard").LOADED
pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

METHODS = ["full", "layerwise", "bitfit", "ln-tuning", "lora", "qlora", "adapter", "ia3", "prefix", "prompt", "ptuning"]
FAMILIES = {"causal-lm": "llama", "classification": "bert", "seq2seq": "t5"}
WITH_BIASES = {"causal-lm": "gpt2", "classification": "bert", "seq2seq": "bart"}
PRECISIONS = (("fp32", "no"), ("fp32", "bf16"), ("bf16", "no"), ("bf16", "bf16"))
SIZES = {"lora": {"rank": 4}, "qlora": {"rank": 4}, "adapter": {"bottleneck_size": 8}, "layerwise": {"lower_layers": 1}}


def cells() -> list[Cell]:
    """Every cell of a CPU: in fp32 with every switch, in other precisions with checkpointing where it may be."""
    found = []
    for method, task, checkpointing, packing, quant, (dtype, mixed) in itertools.product(
        METHODS, FAMILIES, (False, True), (False, True), (None, "nf4", "fp4", "int8"), PRECISIONS
    ):
        plain = (dtype, mixed) == ("fp32", "no")
        if not plain and (packing or checkpointing == (method == "prefix") or quant in ("fp4", "int8")):
            continue
        found.append(
            Cell(
                method=method,
                task=task,  # type: ignore[arg-type]
                gradient_checkpointing=checkpointing,
                packing=packing,
                quant=quant,  # type: ignore[arg-type]
                dtype=dtype,  # type: ignore[arg-type]
                mixed_precision=mixed,  # type: ignore[arg-type]
                adapter_dtype=adapter_dtype(method, task, quant, dtype, mixed),  # type: ignore[arg-type]
                micro_batch_size=4,
                device="cpu",
                keeps_fp32=task == "seq2seq",
                layer_norms=task == "classification",
            )
        )
    return found


def adapter_dtype(method: str, task: str, quant: str | None, dtype: str, mixed: str) -> str:
    """trl makes adapters on quantised bases bf16, and PEFT copies norms as they are."""
    cast = quant is not None and task == "causal-lm"
    return "bf16" if cast or (method, dtype, mixed) == ("ln-tuning", "bf16", "no") else "fp32"


def name_of(cell: Cell) -> str:
    switches = [name for name in ("gradient_checkpointing", "packing") if getattr(cell, name)]
    return "-".join([cell.method, cell.task, *switches, cell.quant or "", cell.dtype, cell.mixed_precision])


def plan_of(cell: Cell, folder: Path, *, steps: int = 6, family: str | None = None, **given: Any) -> Plan:
    """A plan for a cell, resolved by the planner, with a budget nobody counted."""
    family = family or (WITH_BIASES if cell.method == "bitfit" else FAMILIES)[cell.task]
    model_path = make_model(folder / "model", family, cell.task)
    data = read_data_file(write_jsonl(folder / "train.jsonl", rows_of(cell.task)), cell.task)
    labels = data.planned.labels
    model = model_for_task(read_folder(model_path), cell.task, len(labels) or None)
    options = {
        "method": cell.method,
        "task": cell.task,
        "gradient_checkpointing": cell.gradient_checkpointing,
        "packing": cell.packing or None,
        "quant": cell.quant,
        "dtype": cell.dtype,
        "mixed_precision": cell.mixed_precision,
        "micro_batch": cell.micro_batch_size,
        "gradient_accumulation_steps": 1,
        "sequence_length": SEQUENCE_LENGTH,
        "target_length": TARGET_LENGTH if cell.task == "seq2seq" else None,
        "num_labels": len(labels) or None,
        "virtual_tokens": 4 if cell.method in ("prefix", "prompt", "ptuning") else None,
        "max_steps": steps,
        "learning_rate": 3e-3 if cell.method in ("full", "layerwise") else 2e-2,
        **SIZES.get(cell.method, {}),
        **given,
    }
    found = resolve(options, model, make_device())
    recipe = found.recipe.model_copy(
        update={"output_dir": str(folder / "output"), "eval_data": str(folder / "train.jsonl")}
    )
    plan = make_plan(folder, model_path=model_path, data=data.planned, setup=found.setup, budget=make_budget())
    planned = plan.model.model_copy(update={"model_type": model.model_type, "architecture": model.architecture})
    return plan.model_copy(update={"workload": found.workload, "recipe": recipe, "model": planned})


def run(plan: Plan, folder: Path) -> RunReport:
    events: list[Event] = []
    Work(plan, Attempt(accept=(LOADED,)), folder, events.append, Stop()).run()
    return RunReport.model_validate_json((folder / "report.json").read_text())


@pytest.mark.parametrize("cell", [cell for cell in cells() if refusal(cell) is None], ids=name_of)
def test_an_allowed_cell_trains(cell: Cell, tmp_path: Path) -> None:
    plan = plan_of(cell, tmp_path)
    if cell.method not in ("full", "layerwise", "bitfit"):
        assert plan.setup.precision.adapter_dtype == cell.adapter_dtype
    report = run(plan, tmp_path)
    assert report.status == "done", report.failure
    assert report.eval_loss_after is not None
    assert report.eval_loss_before is not None
    assert report.eval_loss_after < report.eval_loss_before


PROOFS: dict[str, Callable[[Path], None]] = {}
ON_A_GPU = ("no bf16 on this device", "no 4-bit kernels on this device")
"""Rules about devices that are not here."""


def proof(rule: str) -> Callable[[Callable[[Path], None]], Callable[[Path], None]]:
    def keep(function: Callable[[Path], None]) -> Callable[[Path], None]:
        PROOFS[rule] = function
        return function

    return keep


def failure_without_the_matrix(cell: Cell, folder: Path, **changes: Any) -> str:
    """How a run ends that nobody refuses."""
    allowed = {"gradient_checkpointing": False, "packing": False, **changes.pop("allowed", {})}
    plan = plan_of(cell.model_copy(update=allowed), folder)
    setup = plan.setup.model_copy(update=changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vramplan.executor.train.check_supported", lambda plan: None)
        report = run(plan.model_copy(update={"setup": setup}), folder)
    assert report.status == "failed"
    return report.failure or ""


@proof("a quantised base does not train")
def _(folder: Path) -> None:
    import bitsandbytes

    weight = bitsandbytes.nn.Linear4bit(64, 64).to("cpu").weight
    with pytest.raises(RuntimeError, match="floating point"):
        weight.requires_grad_(True)


@proof("LoRA on a quantised base is QLoRA")
def _(folder: Path) -> None:
    from vramplan.planner.methods import Lora, Qlora

    assert "quant" not in Lora.model_fields
    assert Qlora.model_fields["quant"].annotation is not None
    with pytest.raises(ValueError, match="quant"):
        Qlora(quant=None)  # type: ignore[arg-type]


@proof("a checkpointed layer drops a prefix")
def _(folder: Path) -> None:
    cell = Cell(method="prefix", gradient_checkpointing=True, micro_batch_size=4)
    failure = failure_without_the_matrix(cell, folder, gradient_checkpointing=True)
    assert "The size of tensor a (24) must match the size of tensor b (28)" in failure


@proof("one prefix for several documents")
def _(folder: Path) -> None:
    """Two documents in one row, told apart by their positions, are not what they are in rows of their own."""
    import peft
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(make_model(folder / "model", "llama", "causal-lm"))
    config = peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config).eval()
    for parameter in model.prompt_encoder.parameters():
        torch.nn.init.normal_(parameter)
    ids = torch.arange(10, 26)[None]
    positions = torch.cat([torch.arange(8), torch.arange(8)])[None]
    with torch.no_grad():
        packed = model(input_ids=ids, position_ids=positions).logits[:, 4:]
        apart = [model(input_ids=half).logits[:, 4:] for half in ids.split(8, dim=1)]
    assert torch.allclose(packed[:, :8], apart[0], atol=1e-4)
    assert not torch.allclose(packed[:, 8:], apart[1], atol=1e-2)


@proof("only trl packs")
def _(folder: Path) -> None:
    from transformers import Seq2SeqTrainingArguments, TrainingArguments

    for arguments in (TrainingArguments, Seq2SeqTrainingArguments):
        with pytest.raises(TypeError, match="packing"):
            arguments(packing=True)


@proof("the last token cannot be found")
def _(folder: Path) -> None:
    """A padded row is another class than the same row alone."""
    import peft
    from transformers import AutoModelForSequenceClassification

    base = AutoModelForSequenceClassification.from_pretrained(make_model(folder / "model", "llama", "classification"))
    model = peft.get_peft_model(base, peft.PromptTuningConfig(num_virtual_tokens=4, task_type="SEQ_CLS")).eval()
    ids = torch.tensor([[5, 6, 7, 8, 0, 0]])
    with torch.no_grad():
        alone = model(input_ids=ids[:, :4], attention_mask=torch.ones(1, 4, dtype=torch.long)).logits
        padded = model(input_ids=ids, attention_mask=(ids > 0).long()).logits
    assert not torch.allclose(alone, padded, atol=1e-3)


@proof("nothing for BitFit to train")
def _(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_model(folder / "model", "llama", "causal-lm"))
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


@proof("no checkpointing in this class")
def _(folder: Path) -> None:
    from vramplan.planner.trace import weights

    config = weights.build_config({**CONFIGS["bert"], "model_type": "mpnet"})
    model = weights.task_class(config, "classification")._from_config(config)
    with pytest.raises(ValueError, match="does not support"):
        model.gradient_checkpointing_enable()


@proof("fp16 weights do not train")
def _(folder: Path) -> None:
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(weight.float().sum()).backward()
    with pytest.raises(ValueError, match="FP16"):
        scaler.unscale_(torch.optim.SGD([weight], lr=0.1))


@proof("bf16 gradients under a scaler")
def _(folder: Path) -> None:
    """There is no kernel for it on CUDA; on a CPU the scaler runs and has nothing to do, for bf16 has fp32's range."""
    assert torch.finfo(torch.bfloat16).smallest_normal == torch.finfo(torch.float32).smallest_normal


@proof("two half precisions")
def _(folder: Path) -> None:
    """Autocast takes three of fp16's ten bits away, and its range with them comes back to fp16."""
    weight = torch.full((64, 64), 1 + 2**-10, dtype=torch.float16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product = torch.eye(64) @ weight
    assert product.dtype == torch.bfloat16
    assert float(product[0, 0]) != float(weight[0, 0])


@proof("no fp16 on a CPU")
def _(folder: Path) -> None:
    """accelerate says nothing and enters no autocast, nor scales; and a gradient of 1e-8 in fp16 is 0."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision="fp16", cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    assert (accelerator.scaler, accelerator.native_amp) == (None, False)
    weight = torch.nn.Parameter(torch.ones(4, dtype=torch.float16))
    (weight * 1e-4 * 1e-4).sum().backward()
    assert weight.grad is not None
    assert not weight.grad.any()


@proof("linears that are never quantised")
def _(folder: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM, BitsAndBytesConfig

    path = make_model(folder / "model", "t5", "seq2seq")
    model = AutoModelForSeq2SeqLM.from_pretrained(path, quantization_config=BitsAndBytesConfig(load_in_8bit=True))
    kinds = {name.rpartition(".")[2]: type(module).__name__ for name, module in model.named_modules()}
    assert (kinds["wi"], kinds["wo"]) == ("Linear8bitLt", "Linear")


@proof("IA3's fp32 keys beside half-precision queries")
def _(folder: Path) -> None:
    cell = Cell(method="ia3", quant="nf4", dtype="bf16", mixed_precision="bf16", micro_batch_size=4)
    precision = Precision(dtype="bf16", mixed_precision="no", adapter_dtype="fp32")
    assert "dtype" in failure_without_the_matrix(cell, folder, precision=precision)


@proof("IA3's fp32 outputs before a half-precision LayerNorm")
def _(folder: Path) -> None:
    cell = Cell(
        method="ia3", task="classification", quant="nf4", dtype="bf16", mixed_precision="bf16", micro_batch_size=4
    )
    fp32 = cell.model_copy(update={"dtype": "fp32", "mixed_precision": "no"})
    precision = Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32")
    assert "mixed dtype (CPU)" in failure_without_the_matrix(fp32, folder, precision=precision)


@proof("a head in another dtype than its base")
def _(folder: Path) -> None:
    cell = Cell(method="lora", task="classification", dtype="bf16", mixed_precision="bf16", micro_batch_size=4)
    precision = Precision(dtype="bf16", mixed_precision="no", adapter_dtype="fp32")
    assert "dtype" in failure_without_the_matrix(cell, folder, precision=precision)


@pytest.mark.parametrize("rule", [rule.name for rule in RULES if rule.name not in ON_A_GPU])
def test_what_is_refused_breaks_or_is_wrong(rule: str, tmp_path: Path) -> None:
    PROOFS[rule](tmp_path)
