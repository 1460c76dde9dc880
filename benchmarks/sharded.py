"""Several GPUs: what is predicted for a rank beside what real ranks hold, two processes over gloo on a CPU.

    python benchmarks/sharded.py [CELL ...]    run all cells, or those named, and write results/sharded.json

A cell is a small model, a setup and a kind of sharding. Two processes wrap the model with the engines themselves
(accelerate's FSDP2, DistributedDataParallel, DeepSpeed) and track a step (planner/trace/ranks.py, zero_ranks.py); the
prediction is the planner's price on a CPU, batches left out on both sides. Compared: the highest point of the step, of
the rank that holds most. DeepSpeed is no dependency of vramplan: where it is not installed its cells keep their rows.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tables import write_between

from vramplan.planner.memory.price import Question
from vramplan.planner.memory.sharded import pricing_of
from vramplan.planner.memory.structure import program_key
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.model_spec import ModelSpec, Provenance
from vramplan.planner.training_setup import Precision, TrainingSetup
from vramplan.planner.workload import Workload

RESULTS = Path(__file__).parent / "results" / "sharded.json"
PAGE = Path(__file__).parents[1] / "docs" / "sharding.md"
WORLD = 2
MODEL = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 176,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 301,
    "num_hidden_layers": 5,
    "max_position_embeddings": 512,
    "pad_token_id": None,
}
"""A vocabulary that two ranks cannot share evenly."""
STANDARD: dict[str, Any] = {"loss": "standard"}
BF16: dict[str, Any] = {"dtype": "bf16", "mixed_precision": "bf16"}
CELLS: dict[str, dict[str, Any]] = {
    "fsdp, full, fp32": {"method": Full(), **STANDARD},
    "fsdp, full, fp32, no checkpointing": {"method": Full(), "gradient_checkpointing": False, **STANDARD},
    "fsdp, full, bf16 under autocast": {"method": Full(), "dtype": "bf16", "mixed_precision": "bf16"},
    "fsdp, full, tied embeddings": {"method": Full(), "tied": True, **STANDARD},
    "fsdp, full, trl's loss": {"method": Full()},
    "fsdp, lora, fp32": {"method": Lora(r=4), **STANDARD},
    "fsdp, lora, bf16 base, trl's loss": {"method": Lora(r=4), "dtype": "bf16"},
    "fsdp, lora r=3, tied, trl's loss": {"method": Lora(r=3), "tied": True},
    "fsdp, qlora, bf16 storage": {
        "method": Qlora(r=4),
        "dtype": "bf16",
        "adapter_dtype": "bf16",
        **STANDARD,
    },
    "ddp, full, fp32": {"method": Full(), "sharding": "ddp", **STANDARD},
    "ddp, lora, bf16 base": {"method": Lora(r=4), "sharding": "ddp", "dtype": "bf16", **STANDARD},
    "zero1, full, fp32": {"method": Full(), "sharding": "zero1", **STANDARD},
    "zero1, full, bf16": {"method": Full(), "sharding": "zero1", **BF16, **STANDARD},
    "zero1, lora, fp32": {"method": Lora(r=4), "sharding": "zero1", **STANDARD},
    "zero1, lora, bf16": {"method": Lora(r=4), "sharding": "zero1", **BF16, **STANDARD},
    "zero2, full, fp32": {"method": Full(), "sharding": "zero2", **STANDARD},
    "zero2, full, bf16": {"method": Full(), "sharding": "zero2", **BF16, **STANDARD},
    "zero2, full, bf16, trl's loss": {"method": Full(), "sharding": "zero2", **BF16},
    "zero2, lora, fp32": {"method": Lora(r=4), "sharding": "zero2", **STANDARD},
    "zero2, lora, bf16": {"method": Lora(r=4), "sharding": "zero2", **BF16, **STANDARD},
    "zero3, full, fp32": {"method": Full(), "sharding": "zero3", **STANDARD},
    "zero3, full, fp32, no checkpointing": {
        "method": Full(),
        "sharding": "zero3",
        "gradient_checkpointing": False,
        **STANDARD,
    },
    "zero3, full, bf16": {"method": Full(), "sharding": "zero3", **BF16, **STANDARD},
    "zero3, full, fp32, trl's loss": {"method": Full(), "sharding": "zero3"},
    "zero3, full, tied embeddings": {"method": Full(), "sharding": "zero3", "tied": True, **STANDARD},
    "zero3, lora, fp32": {"method": Lora(r=4), "sharding": "zero3", **STANDARD},
    "zero3, lora, bf16": {"method": Lora(r=4), "sharding": "zero3", **BF16, **STANDARD},
}


def spec_of(*, tied: bool) -> ModelSpec:
    """The model, counted by transformers."""
    from vramplan.planner.trace import weights

    model = weights.meta_model(weights.build_config({**MODEL, "tie_word_embeddings": tied}))
    return ModelSpec(
        repo_id="tiny/llama",
        model_type="llama",
        architecture=type(model).__name__,
        config=weights.completed_config(model.config, MODEL),
        weights=weights.weights_on_meta(model, "fp32"),
        checkpoint_dtype="fp32",
        output_embedding=weights.output_embedding(model),
        provenance=Provenance(source="folder", location="tiny", parameters_basis="counted"),
    )


def question_of(cell: dict[str, Any]) -> Question:
    """What is priced, and what the ranks run."""
    cell = {"sharding": "fsdp", **cell}
    precision = Precision(
        dtype=cell.pop("dtype", "fp32"),
        mixed_precision=cell.pop("mixed_precision", "no"),
        adapter_dtype=cell.pop("adapter_dtype", "fp32"),
    )
    model = spec_of(tied=cell.pop("tied", False))
    setup = TrainingSetup(precision=precision, micro_batch_size=2, gpus=WORLD, **cell)
    return Question(model, Workload(sequence_length=40), setup, "cpu")


def predicted(question: Question) -> dict[str, int]:
    """Bytes of rank 0 at the highest point of each phase, without batches."""
    from vramplan.planner.trace.build import build_program

    key = program_key(question.model, question.workload, question.setup, "cpu", None)
    parts = pricing_of(question, build_program(key)).phase_parts()
    return {
        phase: sum(size for name, size in parts[phase].items() if name != "batch")
        for phase in ("forward", "loss", "backward", "optimizer_step")
    }


def measured(question: Question) -> list[dict[str, Any]]:
    """What each rank's tracker saw."""
    with tempfile.TemporaryDirectory() as folder:
        case, store = Path(folder) / "case.json", Path(folder) / "store"
        names = ("model", "workload", "setup")
        case.write_text(
            json.dumps({name: getattr(question, name).model_dump(mode="json") for name in names}), encoding="utf-8"
        )
        module = "zero_ranks" if question.setup.sharding.startswith("zero") else "ranks"
        command = [sys.executable, "-P", "-W", "ignore", "-m", f"vramplan.planner.trace.{module}", str(case)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}
        ranks = [
            subprocess.Popen(
                [*command, str(rank), str(WORLD), str(store)],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for rank in range(WORLD)
        ]
        said = [rank.communicate() for rank in ranks]
    for rank, (_, errors) in zip(ranks, said, strict=True):
        if rank.returncode:
            raise RuntimeError(errors[-2000:])
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def run_cell(name: str) -> dict[str, Any]:
    """One row of the table."""
    question = question_of(dict(CELLS[name]))
    ranks = measured(question)
    expected = predicted(question)
    found = {phase: max(rank["peaks"][phase] for rank in ranks) for phase in ranks[0]["peaks"]}
    highest = max(found.values())
    return {
        "cell": name,
        "sharding": question.setup.sharding,
        "ranks": WORLD,
        "predicted_bytes": expected,
        "measured_bytes": found,
        "measured_peak_bytes": [max(rank["peaks"].values()) for rank in ranks],
        "predicted_peak_bytes": max(expected.values()),
        "off_by": round(max(expected.values()) / highest - 1, 6),
    }


def main(names: list[str]) -> int:
    """Run cells and keep the others' results."""
    import importlib.metadata
    import importlib.util

    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {"rows": [], "versions": {}}
    rows = {row["cell"]: row for row in old["rows"] if row["cell"] in CELLS}
    known = old["versions"]
    here = importlib.util.find_spec("deepspeed") is not None
    for name in names or [each for each in CELLS if here or not each.startswith("zero")]:
        rows[name] = run_cell(name)
        row = rows[name]
        print(
            f"{name:40} {row['predicted_peak_bytes']:>12,} {max(row['measured_peak_bytes']):>12,} {row['off_by']:+.3%}"
        )
        packages = ("torch", "accelerate", "transformers", "peft", *(["deepspeed"] if here else []))
        versions = known | {each: importlib.metadata.version(each) for each in packages}
        content = {"versions": versions, "rows": [rows[each] for each in CELLS if each in rows]}
        RESULTS.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        write_between(PAGE, "sharded", table(content["rows"]))
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """The page's table: each cell's highest point."""
    lines = [
        f"| {row['cell']} | {row['predicted_peak_bytes']:,} | {max(row['measured_peak_bytes']):,} |" for row in rows
    ]
    return "\n".join(["| two ranks of a small Llama | predicted | measured |", "|---|---:|---:|", *lines])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
