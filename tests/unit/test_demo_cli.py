"""The demo is the commands, in order; it stops where one stops and touches no earlier run."""

from pathlib import Path

import pytest

from vramplan.executor import demo_assets, demo_cli
from vramplan.executor.demo_assets import DemoAssets
from vramplan.planner.adapters.devices import read_cpu
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.programs import shipped_digests
from vramplan.planner.cli.main import build_parser, run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.memory.structure import program_key
from vramplan.planner.resolve import resolve

ASSETS = DemoAssets(model=Path("cache/model"), train=Path("cache/train.jsonl"), held_out=Path("cache/heldout.jsonl"))


def test_every_line_of_the_demo_is_a_command_line_that_parses() -> None:
    lines = list(demo_cli.commands(ASSETS, "cpu", 7, Path("runs/demo/plan.json")))
    assert [line[0] for line in lines] == ["recommend", "plan", "run"]
    for line in lines:
        args = build_parser(line[0]).parse_all(line)
        if line[0] == "plan":
            assert args.max_steps == 7
            assert args.eval_data == "cache/heldout.jsonl"


def test_it_stops_at_the_first_command_that_does_not_end_well(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def run_command(line: list[str]) -> int:
        ran.append(line[0])
        return 3 if line[0] == "plan" else 0

    monkeypatch.setattr(demo_cli, "run_command", run_command)
    assert demo_cli.run_all([["recommend"], ["plan", "a b"], ["run"]]) is ExitCode.TIGHT
    assert ran == ["recommend", "plan"]
    assert "$ vramplan plan 'a b'" in capsys.readouterr().err


def test_a_second_demo_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    assert demo_cli.free_folder(tmp_path, "demo").name == "demo"
    (tmp_path / "demo").mkdir()
    assert demo_cli.free_folder(tmp_path, "demo").name == "demo-2"
    (tmp_path / "demo-2").mkdir()
    assert demo_cli.free_folder(tmp_path, "demo").name == "demo-3"


def test_no_steps_are_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_command(["demo", "--steps", "0"]) == ExitCode.USAGE
    assert "--steps 0 is not possible" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_its_packages_it_names_them_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_assets.importlib.util, "find_spec", lambda _name: None)
    assert run_command(["demo"]) == ExitCode.MISSING_EXTRA
    error = capsys.readouterr().err
    assert "the demo needs torch" in error
    assert "pip install 'vramplan[demo]'" in error
    assert "Traceback" not in error


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("gradient_checkpointing", [True, False])
@pytest.mark.parametrize("micro_batch", [1, 4])
def test_nothing_the_demo_prices_on_a_processor_needs_tracing(
    method: str, gradient_checkpointing: bool, micro_batch: int
) -> None:
    model = resolve_model("HuggingFaceTB/SmolLM2-135M", online=False)
    given = {
        "method": method,
        "sequence_length": 96,
        "micro_batch": micro_batch,
        "gradient_accumulation_steps": 4 // micro_batch,
        "gradient_checkpointing": gradient_checkpointing,
    }
    resolved = resolve(given, model, read_cpu())
    key = program_key(model, resolved.workload, resolved.setup, "cpu", None)
    assert key.digest() in shipped_digests()
