"""benchmarks/measure.py on a CPU: a tiny cell measured and priced, kept, and not measured again."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.device import Device
from vramplan.planner.resolve import resolve
from vramplan.planner.units import GIB

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _grid(kind: str) -> list[dict[str, Any]]:
    return list(tomllib.loads((BENCHMARKS / "cases" / "measure.toml").read_text())[kind])


def test_every_cell_of_the_grid_is_a_setup_that_fits_an_80_gib_card_by_name_and_size() -> None:
    cells = _grid("cuda")
    assert len(cells) >= 25
    assert len({json.dumps(cell) for cell in cells}) == len(cells)
    card = Device(
        source="memory", kind="cuda", name="80 GiB", total_bytes=80 * GIB, free_bytes=None,
        compute_capability=(9, 0), bf16_native=True, bnb_4bit=True,
    )  # fmt: skip
    for cell in cells:
        resolve(cell["options"], resolve_model(cell["model"], online=False), card)


@pytest.mark.train
def test_a_cell_is_measured_beside_its_price_and_kept(tmp_path: Path) -> None:
    out = tmp_path / "cpu.json"
    command = [sys.executable, str(BENCHMARKS / "measure.py"), "--device", "cpu", "--cells", "1", "--out", str(out)]
    first = subprocess.run(command, capture_output=True, text=True, check=True)
    (row,) = json.loads(out.read_text()).values()
    measured = {phase["name"]: phase["allocated_bytes"] for phase in row["measured"]["phases"]}
    predicted = row["predicted"]
    assert measured.keys() >= {"forward", "loss", "backward", "optimizer_step", "evaluation"}
    for component in ("weights", "gradients", "optimizer", "buffers"):
        assert row["measured"]["static"][component] == predicted["traced"]["static"][component]
    peak = max(measured[phase] for phase in ("forward", "loss", "backward", "optimizer_step"))
    assert peak == pytest.approx(predicted["traced"]["peak_allocated_bytes"], rel=0.005)
    assert row["measured"]["tokens_per_second"] > 0
    assert "0 left" in first.stdout
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert again.stdout.splitlines() == [f"1 cells in {out}, 0 left"]
