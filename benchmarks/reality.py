"""Memory programs against real steps on this CPU: every tiny model of cases/tiny_models.json in every mode below.

    python benchmarks/reality.py [--models llama,gpt2] [--modes 3]

Each cell builds the program from traces at other sizes and another depth, replays it at the tiny model's, and runs the
same micro step on real tensors twice: under the tracker (must agree to the byte in every phase) and under torch's
profiler, which sees the allocator and no dispatch mode (the peak must agree within 0.5 %). Resumable: a cell with the
same library versions is kept. Writes results/reality.json and the table in README.md.
"""

import argparse
import contextlib
import json
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tables import table, write_between

from vramplan.executor.measure_cpu import CpuMeter
from vramplan.planner.attention import EAGER_ONLY
from vramplan.planner.memory.replay import At, Replay
from vramplan.planner.memory.static import count_static
from vramplan.planner.memory.structure import layer_kinds, program_key, replay_values
from vramplan.planner.methods import Full, Lora, Qlora
from vramplan.planner.model_spec import ModelSpec, Provenance
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.training_setup import Precision, TrainingSetup
from vramplan.planner.workload import Workload

HERE = Path(__file__).parent
MODELS = HERE / "cases" / "tiny_models.json"
RESULTS = HERE / "results" / "reality.json"
SEQUENCE_LENGTH = 96
MICRO_BATCH = 2
RANK = 4
PROFILER_TOLERANCE = 0.005
KERNEL_BUFFERS = {"full, bf16": 0.03}
"""Modes whose CPU kernels allocate inside, where no tensor shows: oneDNN's bf16 products. The GPU has other kernels."""

FP32 = Precision(dtype="fp32", mixed_precision="no", adapter_dtype="fp32")
BF16 = Precision(dtype="bf16", mixed_precision="no", adapter_dtype="bf16")
AUTOCAST = Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="fp32")
QUANTISED = Precision(dtype="bf16", mixed_precision="bf16", adapter_dtype="bf16")
LOW_RANK = {"r": RANK, "lora_alpha": 2 * RANK}

MODES: dict[str, dict[str, Any]] = {
    "full": {"method": Full(), "precision": FP32},
    "full, no checkpointing": {"method": Full(), "precision": FP32, "gradient_checkpointing": False},
    "full, standard loss": {"method": Full(), "precision": FP32, "loss": "standard", "gradient_checkpointing": False},
    "full, bf16": {"method": Full(), "precision": BF16, "loss": "standard"},
    "full, eager": {"method": Full(), "precision": FP32, "attention": "eager", "gradient_checkpointing": False},
    "lora": {"method": Lora(**LOW_RANK), "precision": FP32},
    "lora, no checkpointing": {"method": Lora(**LOW_RANK), "precision": FP32, "gradient_checkpointing": False},
    "lora, autocast, standard loss": {
        "method": Lora(**LOW_RANK),
        "precision": AUTOCAST,
        "loss": "standard",
        "gradient_checkpointing": False,
    },
    "lora, dropout": {"method": Lora(**LOW_RANK, lora_dropout=0.1), "precision": FP32},
    "dora": {"method": Lora(**LOW_RANK, use_dora=True), "precision": FP32, "gradient_checkpointing": False},
    "qlora": {"method": Qlora(**LOW_RANK), "precision": QUANTISED},
    "lora, padded": {"method": Lora(**LOW_RANK), "precision": FP32, "padding": "right"},
}


@dataclass(frozen=True)
class Cell:
    """One model in one mode."""

    model: str
    mode: str

    @property
    def name(self) -> str:
        return f"{self.model} / {self.mode}"


def tiny_model(model_type: str, fields: dict[str, Any]) -> ModelSpec:
    """The ModelSpec of a tiny model, its weights counted on the meta device."""
    from vramplan.planner.trace import weights

    config = weights.build_config({"model_type": model_type, **fields})
    model = weights.meta_model(config)
    return ModelSpec(
        repo_id=f"tiny/{model_type}",
        model_type=model_type,
        architecture=type(model).__name__,
        config=weights.completed_config(config, {"model_type": model_type, **fields}),
        weights=weights.weights_on_meta(model, "fp32"),
        checkpoint_dtype="fp32",
        output_embedding=weights.output_embedding(model),
        provenance=Provenance(source="folder", location="benchmarks/cases", parameters_basis="the meta device"),
    )


def setup_of(model_type: str, mode: str) -> TrainingSetup:
    """A mode's setup, with the attention the model has."""
    fields = MODES[mode] | ({"attention": "eager"} if model_type in EAGER_ONLY else {})
    return TrainingSetup(micro_batch_size=MICRO_BATCH, **fields)


def run_cell(model: ModelSpec, setup: TrainingSetup) -> dict[str, Any]:
    """Predicted and real dynamic bytes of one micro step, per phase and by the profiler."""
    from vramplan.planner.trace import real
    from vramplan.planner.trace.build import build_program

    workload = Workload(sequence_length=SEQUENCE_LENGTH)
    key = program_key(model, workload, setup, "cpu", None)
    program = build_program(key)
    values = replay_values(model, workload, setup)
    replayed = Replay(program, At(values, layer_kinds(model), 1)).run()
    predicted = {phase: peak.total_bytes for phase, peak in replayed.peaks.items()}
    case = real_case(model, key)
    tracked, end = real.real_step(real.real_model(case), case)
    model_again = real.real_model(case)
    trainable = sum(parameter.numel() for parameter in model_again.parameters() if parameter.requires_grad)
    profiled = profiled_peak(model_again, case)
    return {
        "predicted_bytes": predicted,
        "tracked_bytes": tracked,
        "off_by_bytes": sum(abs(tracked[phase] - predicted[phase]) for phase in tracked)
        + abs(end - replayed.end_bytes),
        "profiled_bytes": profiled,
        "profiler_error": round(max(predicted.values()) / profiled - 1, 5),
        "trainable_off_by": count_static(model, setup).trainable_params - trainable,
        "program": key.digest(),
    }


def real_case(model: ModelSpec, key: ProgramKey) -> Any:
    """The tiny model itself, every layer of it, as a case to run."""
    from vramplan.planner.trace.record import Case

    return Case(model.config, key.mode, MICRO_BATCH, SEQUENCE_LENGTH, RANK)


def profiled_peak(model: Any, case: Any) -> int:
    """The highest point of a micro step above its beginning, from the profiler's allocation events."""
    from vramplan.planner.trace import loss, step

    meter = CpuMeter(measured_step=2)
    batch = step.language_batch(
        case.batch, case.sequence, real=True, vocab_size=case.config["vocab_size"], padded=case.mode.padded
    )
    items = step.count_items([batch])

    def mark(name: str) -> None:
        if name in ("forward", "backward"):
            meter.mark(name)  # type: ignore[arg-type]

    fused = loss.fused_loss(case.mode.route, None) if case.mode.loss == "fused" else contextlib.nullcontext()
    with fused:
        for number in (1, 2):
            model.zero_grad()
            meter.begin_micro_batch(number, 0, 1)
            step.micro_step(model, batch, items, case.mode.loss, mark)
            meter.end_step(number)
    assert meter.base_bytes is not None
    return max(peak.allocated_bytes for peak in meter.peaks().values()) - meter.base_bytes


def versions() -> dict[str, str]:
    from vramplan.planner.trace.build import traced_versions

    return traced_versions()


def run(models: dict[str, ModelSpec], modes: list[str], rows: dict[str, Any]) -> None:
    """Every cell that has no result of these library versions yet; results are written as they come."""
    here = versions()
    for model_type, model in models.items():
        for mode in modes:
            cell = Cell(model_type, mode)
            if rows.get(cell.name, {}).get("versions") == here:
                continue
            try:
                rows[cell.name] = run_cell(model, setup_of(model_type, mode)) | {"versions": here}
            except Exception as problem:  # a cell that cannot run is a result too
                rows[cell.name] = {"refused": f"{type(problem).__name__}: {problem}"[:300], "versions": here}
            RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
            print(cell.name, _verdict(rows[cell.name]), flush=True)


def _verdict(row: dict[str, Any]) -> str:
    if "refused" in row:
        return f"refused: {row['refused']}"
    return f"off by {row['off_by_bytes']} bytes, profiler {row['profiler_error']:+.2%}"


def _exact(row: dict[str, Any]) -> bool:
    return row.get("off_by_bytes") == 0 and row.get("trainable_off_by", 0) == 0


def near(mode: str, row: dict[str, Any]) -> bool:
    """Whether the profiler's peak is the program's, up to what CPU kernels allocate inside."""
    return abs(row.get("profiler_error", 1)) <= KERNEL_BUFFERS.get(mode, PROFILER_TOLERANCE)


def markdown(rows: dict[str, Any], models: list[str]) -> str:
    """The table of README.md: a model a row, exact cells counted, and what is not."""
    cells = [rows[name] for name in rows]
    exact = sum(map(_exact, cells))
    close = sum(abs(row.get("profiler_error", 1)) <= PROFILER_TOLERANCE for row in cells)
    refused = sum("refused" in cell for cell in cells)
    head = (
        f"{len(cells)} cells, {len(models)} architectures x {len(MODES)} modes: {exact} equal to the byte in every "
        f"phase, {close} within 0.5 % of the profiler, {refused} refused."
    )
    body = []
    for model in models:
        own = {mode: rows.get(f"{model} / {mode}") for mode in MODES}
        ran = [row for row in own.values() if row and "refused" not in row]
        worst = max((abs(row["profiler_error"]) for row in ran), default=0.0)
        notes = [f"{mode}: {row['refused'][:90]}" for mode, row in own.items() if row and "refused" in row]
        notes += [
            f"{mode}: off by {row['off_by_bytes']}" for mode, row in own.items() if row in ran and not _exact(row)
        ]
        body.append([model, f"{sum(map(_exact, ran))} of {len(ran)}", f"{worst:.2%}", "; ".join(notes)])
    return f"{head}\n\n" + table(["model type", "exact", "profiler, worst", "not exact, or refused"], body, "lrrl")


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory programs against real steps on this CPU.")
    parser.add_argument("--models", help="model types, comma-separated; all by default")
    parser.add_argument("--modes", type=int, help="only the first N modes")
    options = parser.parse_args()
    tiny = json.loads(MODELS.read_text())
    chosen = options.models.split(",") if options.models else list(tiny)
    modes = list(MODES)[: options.modes]
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    warnings.simplefilter("ignore")
    run({name: tiny_model(name, tiny[name]) for name in chosen}, modes, rows)
    if not options.models and not options.modes:
        write_between(HERE / "README.md", "reality", markdown(rows, chosen))
    ran = {name: row for name, row in rows.items() if "refused" not in row}
    return 0 if all(_exact(row) and near(name.partition(" / ")[2], row) for name, row in ran.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
