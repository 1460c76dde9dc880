"""``--report-to``: Trainer's own reporters, told the losses of a run; never a token, and not the verifying steps."""

import json
from pathlib import Path

import pytest

from tests.executor.factories import (
    make_plan,
    make_setup,
    make_tiny_llama,
    pin,
    prompt_completion_rows,
    write_jsonl,
)
from vramplan.executor import checks
from vramplan.executor.attempt import Attempt
from vramplan.executor.environment import worker_environment
from vramplan.executor.process import Stop
from vramplan.planner.errors import ExitCode

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz0123"
WRITER = '''
import json


class SummaryWriter:
    """tensorboardX's, as far as transformers calls it: everything it is told goes to a file."""

    def __init__(self, log_dir):
        self.log_dir = log_dir

    def _told(self, *what):
        from pathlib import Path

        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        with open(self.log_dir + "/told.jsonl", "a") as file:
            file.write(json.dumps(what) + "\\n")

    add_text = add_scalar = _told

    def flush(self):
        pass

    close = flush
'''


def test_a_reporter_that_is_not_installed_blocks_and_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramplan.executor.reporting.find_spec", lambda name: None)
    check = checks.reports(make_plan(tmp_path, report_to="wandb"))
    assert (check.verdict, check.remedy) == ("blocks", "pip install wandb, or plan with --report-to none")
    assert "wandb" in check.found
    assert checks.reports(make_plan(tmp_path)).verdict == "ok"


def test_files_go_beside_the_output_and_nothing_hooks_into_gradients_or_sends_weights(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, report_to="wandb")
    asked = {"WANDB_WATCH": "gradients", "WANDB_LOG_MODEL": "checkpoint", "WANDB_MODE": "offline"}
    told = {name: value for name, value in worker_environment(plan, None, asked).items() if name.startswith("WANDB_")}
    assert told == {
        "WANDB_DIR": str(tmp_path), "WANDB_WATCH": "false", "WANDB_LOG_MODEL": "false", "WANDB_MODE": "offline"
    }  # fmt: skip
    plan = make_plan(tmp_path, report_to="tensorboard")
    assert worker_environment(plan, None, {})["TENSORBOARD_LOGGING_DIR"] == str(tmp_path / "tensorboard")
    chosen = {"TENSORBOARD_LOGGING_DIR": "/logs"}
    assert worker_environment(plan, None, chosen)["TENSORBOARD_LOGGING_DIR"] == "/logs"
    assert "TENSORBOARD_LOGGING_DIR" not in worker_environment(make_plan(tmp_path), None, {})


@pytest.mark.train
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_run_tells_its_losses_and_no_token_and_verifying_tells_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    from vramplan.executor.worker import Work

    (tmp_path / "packages/tensorboardX").mkdir(parents=True)
    (tmp_path / "packages/tensorboardX/__init__.py").write_text(WRITER)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    data = pin(write_jsonl(tmp_path / "train.jsonl", prompt_completion_rows()))
    model = make_tiny_llama(tmp_path / "model")
    plan = make_plan(tmp_path, model_path=model, data=data, setup=make_setup(), max_steps=2, report_to="tensorboard")
    told = tmp_path / "tensorboard/told.jsonl"
    for goal in ("verify", "run"):
        assert not told.exists()
        (tmp_path / goal).mkdir()
        code = Work(plan, Attempt(goal=goal), tmp_path / goal, lambda event: None, Stop()).run()
        assert code == ExitCode.OK
    lines = [json.loads(line) for line in told.read_text().splitlines()]
    losses = {step: value for name, value, *step_ in lines if name == "train/loss" for step in step_}
    assert set(losses) == {1, 2}
    assert TOKEN not in told.read_text()
