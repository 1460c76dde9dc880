"""Every method on every task, on tiny models on a CPU: does the loss fall, does the result load again to the same loss,
and how near was the price?

    python -m benchmarks.methods [--cells bert,lora]

Each cell is planned as the command plans it, its program traced, run by the executor's own worker, saved, and loaded
again by transformers and PEFT. Resumable: a cell with the same library versions is kept. Writes results/methods.json
and docs/methods.md.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from tests.executor.task_worlds import make_model, priced_plan, rows_of
from vramplan.executor.attempt import Attempt
from vramplan.executor.events import Event
from vramplan.executor.process import Stop
from vramplan.executor.static_check import planned_bytes
from vramplan.executor.worker import Work
from vramplan.planner.errors import VramplanError
from vramplan.planner.methods import trains_base
from vramplan.planner.plan import Plan
from vramplan.planner.report import RunReport

RESULTS = Path(__file__).parent / "results" / "methods.json"
PAGE = Path(__file__).parents[1] / "docs" / "methods.md"
MODELS: dict[str, tuple[str, ...]] = {
    "causal-lm": ("llama", "gpt2"),
    "classification": ("bert", "llama"),
    "seq2seq": ("t5", "bart"),
}
VIRTUAL = {"virtual_tokens": 4}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"learning_rate": 3e-3},
    "full, last block": {"method": "full", "trainable_blocks": 1, "learning_rate": 3e-3},
    "layerwise": {"lower_layers": 1, "lower_learning_rate": 1e-3, "learning_rate": 3e-3},
    "bitfit": {"learning_rate": 2e-2},
    "ln-tuning": {"learning_rate": 2e-2},
    "lora": {"rank": 4, "learning_rate": 1e-2},
    "dora": {"method": "lora", "rank": 4, "use_dora": True, "learning_rate": 1e-2},
    "qlora nf4": {"method": "qlora", "rank": 4, "learning_rate": 1e-2},
    "qlora int8": {"method": "qlora", "quant": "int8", "rank": 4, "learning_rate": 1e-2},
    "houlsby": {"method": "adapter", "bottleneck_size": 8, "learning_rate": 1e-2},
    "pfeiffer": {"method": "adapter", "adapter_kind": "pfeiffer", "bottleneck_size": 8, "learning_rate": 1e-2},
    "ia3": {"learning_rate": 5e-2},
    "prefix": {"learning_rate": 5e-2, **VIRTUAL},
    "prompt": {"learning_rate": 1e-1, **VIRTUAL},
    "ptuning": {"encoder_hidden_size": 32, "learning_rate": 2e-2, **VIRTUAL},
}
BESIDE_A_HEAD = {"prefix": 1e-2, "prompt": 1e-2, "ptuning": 5e-3, "houlsby": 5e-3, "pfeiffer": 5e-3}
"""Rates of a classifier, whose head trains at the same one."""
STEPS = 12
HELD_OUT_ROWS = 12
PEAK_TOLERANCE = 0.02
LOSS_TOLERANCE = 1e-3
"""A row alone is padded to nothing and may take another kernel than a row among four."""
STATIC = ("weights", "quantization_state", "adapter", "gradients", "optimizer", "buffers")


class Cell(NamedTuple):
    """One method on one model of one task."""

    task: str
    family: str
    method: str

    @property
    def name(self) -> str:
        return f"{self.task} / {self.family} / {self.method}"


def cells() -> list[Cell]:
    return [Cell(task, family, method) for task in MODELS for family in MODELS[task] for method in METHODS]


def run_cell(cell: Cell, folder: Path, **given: Any) -> dict[str, Any]:
    """What was planned and what happened; a refusal is a result too."""
    fields = {"method": cell.method, **METHODS[cell.method], **given}
    rate = fields.pop("learning_rate")
    if cell.task == "classification":
        rate = BESIDE_A_HEAD.get(cell.method, rate)
    model_path = make_model(folder / "model", cell.family, cell.task)
    rows = rows_of(cell.task)
    held_out = folder / "heldout.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows[:HELD_OUT_ROWS]))
    recipe = {"learning_rate": rate, "max_steps": STEPS, "eval_data": str(held_out)}
    try:
        plan = priced_plan(folder, model_path, cell.task, rows=rows, recipe=recipe, **fields)
    except VramplanError as refusal:
        return {"refused": refusal.message, "remedy": refusal.remedy}
    events: list[Event] = []
    Work(plan, Attempt(), folder, events.append, Stop()).run()
    report = RunReport.model_validate_json((folder / "report.json").read_text())
    if report.status != "done":
        return {"failed": report.failure}
    measured = {component: report.static.get(component, 0) for component in STATIC}  # type: ignore[call-overload]
    return {
        "loss_before": report.eval_loss_before,
        "loss_after": report.eval_loss_after,
        "loss_reloaded": reloaded_loss(plan, held_out),
        "static_planned": {component: planned_bytes(plan.budget, component) for component in STATIC},  # type: ignore[arg-type]
        "static_measured": measured,
        "peak_planned": plan.budget.peak_allocated_bytes,
        "peak_measured": report.peak_allocated_bytes,
        "trainable_params": plan.model.trainable_params,
    }


def reloaded_loss(plan: Plan, held_out: Path) -> float:
    """The mean loss over the held-out rows of what was saved, loaded by transformers and PEFT alone."""
    import peft
    import torch

    import vramplan.planner.trace.bottleneck  # noqa: F401  makes the tuner known to PEFT
    from vramplan.executor import load

    task, output = plan.workload.task, plan.recipe.output_dir
    if trains_base(plan.setup.method):
        model = load.task_class(task).from_pretrained(output)
    else:
        labels = plan.data.labels if plan.data else ()
        base = load.load_base(plan.model, plan.setup, device_map={"": "cpu"}, task=task, labels=labels)
        model = peft.PeftModel.from_pretrained(base, output)
    model.config.get_text_config().pad_token_id = 0
    model.eval()
    rows = [json.loads(line) for line in held_out.read_text().splitlines()]
    with torch.no_grad():
        losses = [float(model(**_batch(plan, row)).loss) for row in rows]
    return sum(losses) / len(losses)


def _batch(plan: Plan, row: dict[str, Any]) -> dict[str, Any]:
    """One row as tensors, by the tokenizer that was saved with the result."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(plan.recipe.output_dir)
    length = plan.workload.sequence_length
    typed = plan.model.model_type == "bert"
    text = row.get("text") or row["input"]
    made = tokenizer(text, truncation=True, max_length=length, return_tensors="pt", return_token_type_ids=typed)
    batch = dict(made)
    match plan.workload.task:
        case "causal-lm":
            batch["labels"] = batch["input_ids"]
        case "classification":
            assert plan.data is not None
            batch["labels"] = torch.tensor([plan.data.labels.index(row["label"])])
        case "seq2seq":
            target = tokenizer(row["target"], truncation=True, max_length=plan.workload.target_length)
            batch["labels"] = torch.tensor([target["input_ids"]])
    return batch


def is_good(row: dict[str, Any]) -> bool:
    """Loss falls, it loads again to the same loss, static bytes are exact, the peak is near."""
    return "refused" in row or (
        "failed" not in row
        and row["loss_after"] < row["loss_before"]
        and abs(row["loss_reloaded"] - row["loss_after"]) <= LOSS_TOLERANCE * max(1.0, row["loss_after"])
        and row["static_planned"] == row["static_measured"]
        and abs(peak_error(row)) <= PEAK_TOLERANCE
    )


def peak_error(row: dict[str, Any]) -> float:
    return float(row["peak_planned"] / row["peak_measured"] - 1)


def run(chosen: list[Cell], rows: dict[str, Any]) -> None:
    """Every cell that has no result of these library versions yet; results are written as they come. What was refused
    is asked again, which costs nothing."""
    from vramplan.planner.trace.build import traced_versions

    here = traced_versions()
    for cell in chosen:
        known = rows.get(cell.name, {})
        if known.get("versions") == here and is_good(known) and "refused" not in known:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            try:
                row = run_cell(cell, Path(scratch))
            except Exception as problem:
                row = {"failed": f"{type(problem).__name__}: {problem}"[:300]}
        rows[cell.name] = row | {"versions": here}
        RESULTS.write_text(json.dumps({each.name: rows[each.name] for each in cells() if each.name in rows}, indent=1))
        print(
            cell.name,
            "ok" if is_good(row) else "NOT GOOD",
            {k: v for k, v in row.items() if k != "versions"},
            flush=True,
        )


def page(rows: dict[str, Any]) -> str:
    """docs/methods.md."""
    parts = [HEAD]
    for task, families in MODELS.items():
        for family in families:
            parts.append(f"## {task}: {family}\n\n{_table(task, family, rows)}")
    return "\n\n".join(parts) + "\n"


HEAD = """# Every method on every task

Written by `python -m benchmarks.methods`: tiny random models on a CPU in fp32, 12 steps, planned and run as anyone
would plan and run them. *Before* and *after* are the held-out loss; *reloaded* is the loss of what was saved, loaded
again by transformers and PEFT. Static bytes (weights, quantisation state, adapter, gradients, optimizer, buffers) are
counted on the live objects; the peak is the profiler's. What is refused says why.

A plan of two stages is two of these rows, one after the other: an adapter's, and *full, last block* on what it left,
merged. Virtual tokens of a model with two halves: a prompt stands before the encoder's tokens, a prefix before the
keys and values of the decoder's layers."""
COLUMNS = "method | trains | before | after | reloaded | static, planned | measured | peak, planned | measured | error"


def _table(task: str, family: str, rows: dict[str, Any]) -> str:
    lines = [
        f"| {COLUMNS} |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    refused = []
    for method in METHODS:
        row = rows.get(Cell(task, family, method).name)
        if row is None:
            continue
        if "refused" in row:
            refused.append(f"- {method}: {row['refused']}. {row['remedy']}")
        elif "failed" in row:
            lines.append(f"| {method} | failed: {row['failed']} |" + " |" * 8)
        else:
            planned, measured = sum(row["static_planned"].values()), sum(row["static_measured"].values())
            lines.append(
                f"| {method} | {row['trainable_params']:,} | {row['loss_before']:.3f} | {row['loss_after']:.3f} "
                f"| {row['loss_reloaded']:.3f} | {planned:,} | {measured:,} | {row['peak_planned']:,} "
                f"| {row['peak_measured']:,} | {100 * peak_error(row):+.1f} % |"
            )
    return "\n".join(lines) + ("\n\nRefused:\n\n" + "\n".join(refused) if refused else "")


def main() -> int:
    parser = argparse.ArgumentParser(description="Every method on every task, on tiny models on a CPU.")
    parser.add_argument("--cells", help="only cells whose name has each of these comma-separated words")
    options = parser.parse_args()
    words = options.cells.split(",") if options.cells else []
    chosen = [cell for cell in cells() if all(word in cell.name.split(" / ") for word in words)]
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    warnings.simplefilter("ignore")
    run(chosen, rows)
    PAGE.write_text(page(rows))
    return 0 if all(is_good(rows[cell.name]) for cell in chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
