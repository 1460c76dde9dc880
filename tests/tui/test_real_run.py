"""The app on the real core: a tiny model in a folder, priced, planned, trained with a pause and read back."""

from pathlib import Path

import pytest

from tests.executor.factories import make_tiny_llama, prompt_completion_rows, write_jsonl
from tests.tui.driving import driving, train_three_steps
from vramplan.planner.adapters.plan_files import read_plan, read_report

pytestmark = pytest.mark.train


async def test_a_tiny_model_from_its_folder_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from vramplan.tui.live_core import LiveCore

    model = make_tiny_llama(tmp_path / "tiny")
    data = write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows())
    monkeypatch.chdir(tmp_path)
    async with driving(LiveCore(), patience_seconds=300.0) as driver:
        text = await train_three_steps(driver, model, data, pauses=True)
    run = driver.app.state.run
    assert run is not None
    assert run.report is not None
    report = read_report(Path(run.report))
    assert report.plan_fingerprint == read_plan(Path(run.saved.path)).fingerprint
    assert (report.status, report.steps, len(run.losses)) == ("done", 3, 3)
    assert "done after 3 steps" in text
