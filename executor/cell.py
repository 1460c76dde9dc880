"""A few real steps of a setup with random weights and random rows of the full length, beside their price.

``python -P -m vramplan.executor.cell CELL`` prints one JSON object with the plan and the report. CELL is JSON: the
model's catalogue id, options as ``vramplan estimate`` takes them, and the device.
"""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vramplan.executor.attempt import Attempt
from vramplan.executor.evidence import Evidence
from vramplan.executor.failure import first_line, is_out_of_memory
from vramplan.executor.guard import LOADED
from vramplan.executor.process import Stop
from vramplan.executor.random_weights import random_model, random_tokenizer
from vramplan.executor.train import TrainingRun
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.plan_files import freeze_plan
from vramplan.planner.adapters.programs import Found, find_program
from vramplan.planner.candidate import Candidate
from vramplan.planner.device import Device
from vramplan.planner.estimate import estimate
from vramplan.planner.methods import trains_base
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.plan import Plan
from vramplan.planner.programs.key import ProgramKey
from vramplan.planner.report import RunReport
from vramplan.planner.resolve import Resolved, resolve
from vramplan.planner.rows import Rows

STEPS = 5
"""Three are measured, the others timed."""


class Cell:
    """A model, a complete setup, and a device."""

    def __init__(self, model: ModelSpec, options: dict[str, Any], device: Device) -> None:
        self.device = device
        self.model = model
        self.resolved: Resolved = resolve(options, model, device)

    def priced(self, programs: Callable[[ProgramKey], Found] = find_program) -> Candidate:
        """The planner's price with programs from one place."""
        return estimate(
            self.model, self.resolved.workload, self.resolved.setup, self.device, programs=programs, with_tensors=False
        )


class CellRun(TrainingRun):
    """The executor's run with nothing read and nothing written but one save."""

    cell: Cell

    def _read_rows(self) -> tuple[Rows, Rows | None]:
        rows = Rows(path="random rows", kind="text", rows=())
        return rows, rows

    def _load(self, device: str, rows: Rows) -> tuple[Any, Any]:
        return random_tokenizer(), random_model(self.cell.model, self.plan.setup, device)

    def _dataset(self, rows: Rows, tokenizer: Any) -> Any:
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


def measured(
    cell: Cell, evidence_class: type[Evidence] = Evidence, say: Callable[[str], None] = lambda text: None
) -> tuple[Plan, RunReport, Evidence]:
    """Real steps; what ran out of memory is a result too, in the report's ``failure``.

    Args:
        say: told what a run would warn of.
    """
    with tempfile.TemporaryDirectory() as scratch:
        recipe = cell.resolved.recipe.model_copy(update={"max_steps": STEPS, "output_dir": str(Path(scratch) / "out")})
        plan = freeze_plan(cell.priced(), cell.model, recipe)
        evidence = evidence_class(plan, goal="verify")
        attempt = Attempt(goal="verify", accept=(LOADED,))
        run = CellRun(plan, attempt, evidence, lambda event: say(getattr(event, "message", "")), Stop())
        run.cell = cell
        failed = None
        try:
            run.run()
        except Exception as error:
            failed = ("out of memory: " if is_out_of_memory(error) else f"{type(error).__name__}: ") + first_line(error)
        return plan, evidence.report("failed" if failed else "done", failed), evidence


def main(described: str) -> int:
    """Measure one cell."""
    case = json.loads(described)
    model, device = resolve_model(case["model"], online=False), Device.model_validate(case["device"])
    plan, report, _ = measured(Cell(model, case["options"], device))
    sys.stdout.write(
        json.dumps({"plan": plan.model_dump(mode="json"), "report": report.model_dump(mode="json")}) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
