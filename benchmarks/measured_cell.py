"""One cell of benchmarks/measure.py, in a process of its own; prints one JSON object.

    python benchmarks/measured_cell.py measure CELL     real steps through the executor's own loop
    python benchmarks/measured_cell.py predict CELL     the price, by the shipped program and by one traced here

CELL is JSON: model, options, device.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

from reality import MODELS, tiny_model

from vramplan.executor.cell import Cell, measured
from vramplan.executor.evidence import Evidence
from vramplan.executor.failure import first_line
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.programs import Found, find_program
from vramplan.planner.device import Device
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.programs.key import ProgramKey


class WatchedEvidence(Evidence):
    """Evidence that also reads the device's used memory as each phase gives way to the next."""

    def enter(self, phase: Any) -> None:
        if self.phase is not None and (used := self.sensors.used_bytes()) is not None:
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
    said: list[str] = []
    _, report, evidence = measured(cell, WatchedEvidence, said.append)
    assert isinstance(evidence, WatchedEvidence)
    fields = {"phases", "static", "process_bytes", "tokens_per_second", "measured_shape", "seconds", "environment"}
    fields |= {"measured_by", "packages", "failure", "outside_bytes", "energy_joules"}
    return report.model_dump(mode="json", include=fields) | {
        "nvml_before_bytes": evidence.used_before_bytes,
        "nvml_bytes": evidence.nvml,
        "said": [text for text in said if text],
    }


def predict(cell: Cell) -> dict[str, Any]:
    """Both prices; a program that cannot be had is a result too."""
    return {"shipped": _price(cell, find_program), "traced": _price(cell, _traced)}


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
    case = json.loads(described)
    cell = Cell(named_model(case["model"]), case["options"], Device.model_validate(case["device"]))
    result = measure(cell) if goal == "measure" else predict(cell)
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
