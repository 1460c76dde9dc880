"""Two stages as one plan, in the app: priced, shown and saved. It takes PyTorch to trace their programs."""

from pathlib import Path

import pytest

from tests.executor.factories import make_tiny_llama
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.tui.choice import Choice, Knobs
from vramplan.tui.live_core import LiveCore

pytestmark = pytest.mark.train


def test_two_stages_are_priced_named_and_saved_as_one_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    core = LiveCore()
    device, _ = core.named_device("RTX 4090")
    model = core.resolve_model(str(make_tiny_llama(tmp_path / "tiny")))
    choice = Choice(model=model, device=device, knobs=Knobs(method="two-stage", sequence_length=64))
    priced = core.price(choice)
    first, second = priced.stages
    assert first.startswith("stage 1 of 2: lora r=16; ")
    assert second.startswith("stage 2 of 2: full")
    assert [stage.endswith("the one shown here") for stage in priced.stages].count(True) == 1
    assert core.glance(choice).budget.process_bytes > 0
    saved = core.save_plan(choice)
    assert saved.path == priced.path == "runs/tiny-lora-r16-two-stage/plan.json"
    plan = read_plan(Path(saved.path))
    assert [plan.setup.method.kind, *(stage.setup.method.kind for stage in plan.later_stages)] == ["lora", "full"]
    highs = [plan.budget.high_process_bytes, *(stage.budget.high_process_bytes for stage in plan.later_stages)]
    assert priced.candidate.budget.high_process_bytes == max(highs)
