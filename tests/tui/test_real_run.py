"""The app on the real core: a tiny model in a folder, priced, planned, trained with a pause and read back."""

from pathlib import Path

import pytest

from tests.executor.factories import make_tiny_llama, prompt_completion_rows, write_jsonl
from tests.tui.driving import driving, train_three_steps
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.cli.main import run_command

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


async def test_a_plan_of_two_stages_is_run_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    from vramplan.tui.live_core import LiveCore

    model = make_tiny_llama(tmp_path / "tiny")
    data = write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows())
    monkeypatch.chdir(tmp_path)
    options = ["--method", "two-stage", "--device", "cpu", "--dtype", "fp32", "--rank", "4", "--trainable-blocks", "1"]
    options += ["--data", str(data), "--max-steps", "2", "--second-max-steps", "2", "-o", "runs/two/plan.json"]
    assert run_command(["plan", str(model), *options]) == 0
    async with driving(LiveCore(), patience_seconds=300.0) as driver:
        await driver.press("8", until="runs/two is planned")
        await driver.press("r", until="Run runs/two/plan.json now?")
        await driver.press("y", until=lambda: Path("runs/two/stage-2/report.json").exists())
        await driver.wait("done: 8 sets the estimate")
        await driver.press("8", until="two/stage-2")
    reports = [read_report(Path(folder, "report.json")) for folder in ("runs/two", "runs/two/stage-2")]
    assert [(report.status, report.steps) for report in reports] == [("done", 2), ("done", 2)]
