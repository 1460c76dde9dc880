"""A sample of benchmarks/reality.py: programs against real steps of tiny models, under the tracker and the profiler."""

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = [pytest.mark.train, pytest.mark.filterwarnings("ignore")]

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SAMPLE = (
    ("gpt2", "full, standard loss"),
    ("mixtral", "lora"),
    ("deepseek_v3", "qlora"),
    ("gemma3_text", "lora, padded"),
)


@pytest.fixture(scope="module")
def reality() -> Iterator[ModuleType]:
    pytest.importorskip("torch")
    sys.path.insert(0, str(BENCHMARKS))
    try:
        yield importlib.import_module("reality")
    finally:
        sys.path.remove(str(BENCHMARKS))


def _run(reality: ModuleType, model_type: str, mode: str) -> dict[str, Any]:
    tiny = json.loads(reality.MODELS.read_text())
    return dict(reality.run_cell(reality.tiny_model(model_type, tiny[model_type]), reality.setup_of(model_type, mode)))


@pytest.mark.parametrize(("model_type", "mode"), SAMPLE, ids=[" ".join(cell) for cell in SAMPLE])
def test_a_program_gives_the_bytes_of_a_real_step(reality: ModuleType, model_type: str, mode: str) -> None:
    row = _run(reality, model_type, mode)
    assert (row["off_by_bytes"], row["trainable_off_by"]) == (0, 0)
    assert reality.near(mode, row)


def test_one_tensor_too_many_in_the_real_step_shows(reality: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from vramplan.planner.trace import real, step

    whole = step.micro_step

    def with_a_phantom(model: Any, batch: Any, items: Any, loss: str, mark: Any) -> Any:
        kept = []

        def marked(name: str) -> None:
            mark(name)
            if name == "backward":
                kept.append(torch.zeros(1234, dtype=torch.uint8))

        return whole(model, batch, items, loss, marked)

    tracked = real.real_step

    def tracked_with_a_phantom(model: Any, case: Any) -> Any:
        monkeypatch.setattr(step, "micro_step", with_a_phantom)
        return tracked(model, case)

    monkeypatch.setattr(real, "real_step", tracked_with_a_phantom)
    assert _run(reality, "gpt2", "full")["off_by_bytes"] >= 1234


def test_every_result_that_is_kept_is_exact(reality: ModuleType) -> None:
    rows = json.loads(reality.RESULTS.read_text())
    ran = {name: row for name, row in rows.items() if "refused" not in row}
    assert len({name.partition(" / ")[0] for name in ran}) >= 30
    assert not [name for name, row in ran.items() if row["off_by_bytes"] or row.get("trainable_off_by")]
    assert not [name for name, row in ran.items() if not reality.near(name.partition(" / ")[2], row)]
