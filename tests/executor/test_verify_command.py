"""``vramplan verify``: a few real steps, and whether the run may start; nothing of them is left."""

import json
from pathlib import Path

import pytest

from tests.executor.factories import (
    make_budget,
    make_plan,
    make_setup,
    make_tiny_llama,
    pin,
    prompt_completion_rows,
    write_jsonl,
    write_run,
)
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode
from vramplan.planner.methods import Lora


def test_what_is_blocked_is_not_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_path = write_run(make_plan(tmp_path, budget=make_budget(2**60)), tmp_path / "run")
    assert run_command(["verify", str(plan_path), "--json"]) == ExitCode.REFUSED
    printed = json.loads(capsys.readouterr().out)
    assert (printed["may_start"], printed["verification"]) == (False, None)


@pytest.mark.train
@pytest.mark.parametrize("as_json", [True, False])
def test_a_few_steps_say_that_the_run_may_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    pytest.importorskip("torch")
    data = write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows())
    model_path = make_tiny_llama(tmp_path / "model")
    plan = make_plan(tmp_path, setup=make_setup(Lora(r=4)), model_path=model_path, data=pin(data))
    plan_path = write_run(plan, tmp_path / "run")
    assert run_command(["verify", str(plan_path), "--yes", *(["--json"] if as_json else [])]) == ExitCode.OK
    out = capsys.readouterr().out
    if as_json:
        assert json.loads(out)["may_start"] is True
        assert json.loads(out)["verification"]["steps"] == 3
    else:
        assert f"the run may start: vramplan run {plan_path}" in out.replace("\n", " ")
    assert not (tmp_path / "output").exists()
    assert not (tmp_path / "run" / "report.json").exists()
