"""One cell of benchmarks/measure.py, in a process of its own; prints one JSON object.

    python benchmarks/measured_cell.py measure CELL     real steps through the executor's own loop
    python benchmarks/measured_cell.py predict CELL     the price, by the shipped program and by one traced here

CELL is JSON: model, options, device.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from random_weights import random_model, random_tokenizer
from reality import MODELS, tiny_model

from vramplan.executor.attempt import Attempt
from vramplan.executor.evidence import Evidence
from vramplan.executor.failure import first_line, is_out_of_memory
from vramplan.executor.guard import LOADED
from vramplan.executor.process import Stop
from vramplan.executor.rows import Rows
from vramplan.executor.train import TrainingRun
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.plan_files import freeze_plan
from vramplan.planner.adapters.programs import Found, find_program
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device
from vramplan.planner.estimate import estimate
from vramplan.planner.methods import trains_base
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.resolve import Resolved, resolve

STEPS = 5
"""Three are measured, the others timed."""


class Cell:
    """A model, a complete setup, and a device."""

    def __init__(self, described: dict[str, Any]) -> None:
        self.device = Device.model_validate(described["device"])
        self.model = named_model(described["model"])
        self.resolved: Resolved = resolve(described["options"], self.model, self.device)

    def priced(self, programs: Callable[[ProgramKey], Found]) -> Candidate:
        """The planner's price with programs from one place."""
        return estimate(
            self.model, self.resolved.workload, self.resolved.setup, self.device, programs=programs, with_tensors=False
        )


class CellRun(TrainingRun):
    """The executor's run with random weights and random rows of the full length, and nothing written but one save."""

    cell: Cell
    nvml: dict[str, int]

    def _read_rows(self) -> tuple[Rows, Rows | None]:
        rows = Rows(path="random rows", kind="text", rows=())
        return rows, rows

    def _load(self, device: str, rows: Rows) -> tuple[Any, Any]:
        return random_tokenizer(), random_model(self.cell.model, self.plan.setup, device)

    def _dataset(self, _: Rows) -> Any:
        import random

        from datasets import Dataset

        setup, length = self.plan.setup, self.plan.workload.sequence_length
        count = STEPS * setup.micro_batch_size * setup.gradient_accumulation_steps
        top = self.cell.model.config.get("vocab_size", 1000)
        chance = random.Random(0)
        return Dataset.from_list(
            [{"input_ids": [chance.randrange(2, top) for _ in range(length)]} for _ in range(count)]
        )

    def _verify(self, trainer: Any) -> None:
        trainer.train()
        trainer.evaluate(trainer.eval_dataset.select(range(self.plan.setup.micro_batch_size)))
        if not trains_base(self.plan.setup.method):
            trainer.save_checkpoint()


class WatchedEvidence(Evidence):
    """Evidence that also reads the device's used memory as each phase gives way to the next."""

    def enter(self, phase: Any) -> None:
        if self.phase is not None and (used := nvml_used()) is not None:
            self.nvml[self.phase] = max(used, self.nvml.get(self.phase, 0))
        super().enter(phase)

    @property
    def nvml(self) -> dict[str, int]:
        return self.__dict__.setdefault("_nvml", {})


def named_model(name: str) -> ModelSpec:
    """A catalogue model, or ``tiny/...`` of cases/tiny_models.json."""
    family, _, kind = name.partition("/")
    if family == "tiny":
        return tiny_model(kind, json.loads(MODELS.read_text())[kind])
    return resolve_model(name, online=False)


def measure(cell: Cell) -> dict[str, Any]:
    """Real steps; what ran out of memory is a result too."""
    before = nvml_used()
    with tempfile.TemporaryDirectory() as scratch:
        recipe = cell.resolved.recipe.model_copy(update={"max_steps": STEPS, "output_dir": str(Path(scratch) / "out")})
        plan = freeze_plan(cell.priced(find_program), cell.model, recipe)
        evidence = WatchedEvidence(plan, goal="verify")
        said: list[str] = []
        attempt = Attempt(goal="verify", accept=(LOADED,))
        run = CellRun(plan, attempt, evidence, lambda event: said.append(getattr(event, "message", "")), Stop())
        run.cell = cell
        failed = None
        try:
            run.run()
        except Exception as error:
            failed = ("out of memory: " if is_out_of_memory(error) else f"{type(error).__name__}: ") + first_line(error)
        report = evidence.report("failed" if failed else "done", failed)
    fields = {"phases", "static", "process_bytes", "tokens_per_second", "measured_shape", "seconds", "environment"}
    fields |= {"measured_by", "packages", "failure"}
    measured = report.model_dump(mode="json", include=fields)
    return measured | {
        "nvml_before_bytes": before,
        "nvml_bytes": evidence.nvml,
        "said": [text for text in said if text],
    }


def predict(cell: Cell) -> dict[str, Any]:
    """Both prices; a program that cannot be had is a result too."""
    return {"shipped": _price(cell, find_program), "traced": _price(cell, _traced)}


def nvml_used() -> int | None:
    """Bytes in use on the first GPU as the driver counts them; None without one."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByIndex(0)).used)
    except Exception:
        return None


def _traced(key: ProgramKey) -> Found:
    from vramplan.planner.trace.build import build_program

    return Found(build_program(key), "traced")


def _price(cell: Cell, programs: Callable[[ProgramKey], Found]) -> dict[str, Any]:
    try:
        candidate = cell.priced(programs)
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {first_line(error)}"}
    budget = candidate.budget
    lines = {line.component: line.estimate_bytes for phase in budget.phases for line in phase.lines}
    return {
        "phases": {phase.name: phase.allocated_bytes for phase in budget.phases},
        "static": lines,
        "peak_allocated_bytes": budget.peak_allocated_bytes,
        "peak_reserved_bytes": budget.peak_reserved_bytes,
        "high_reserved_bytes": budget.high_reserved_bytes,
        "process_bytes": budget.process_bytes,
        "high_process_bytes": budget.high_process_bytes,
        "program": candidate.provenance.model_dump(mode="json"),
    }


def main(goal: str, described: str) -> int:
    cell = Cell(json.loads(described))
    result = measure(cell) if goal == "measure" else predict(cell)
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
