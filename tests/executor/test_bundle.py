"""A bug report holds what happened and no secret, wherever one was planted."""

import errno
import json
import zipfile
from pathlib import Path

import pytest

from tests.executor.factories import make_plan, write_run
from vramplan.executor.bundle import write_bundle
from vramplan.executor.evidence import Evidence, write_report
from vramplan.executor.secrets import REMOVED, Redactor
from vramplan.planner.cli.main import run_command
from vramplan.planner.errors import ExitCode

PLANTED = {
    "a Hub token": "hf_" + "abcdefghijklmnopqrstuvwxyz012345",
    "a provider's key": "sk-" + "proj-abcdefghijklmnopqrstu",
    "a GitHub token": "ghp_" + "0123456789abcdefghijklmnopqrstuvwxyz",
    "an AWS key": "AKIA" + "IOSFODNN7EXAMPLE",
    "a web token": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
    "a variable's value": "correct-horse-battery",
    "a stored token": "an-odd-token-of-no-shape",
    "a password in an address": "hunter2hunter2",
    "a header's token": "abcdef0123456789",
}
TEXT = {
    "a password in an address": "https://me:{}@example.org/simple",
    "a header's token": "Authorization: Bearer {}",
}


@pytest.fixture
def run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WANDB_API_KEY", PLANTED["a variable's value"])
    monkeypatch.setattr("huggingface_hub.get_token", lambda: PLANTED["a stored token"])
    folder = tmp_path / "run"
    plan = make_plan(tmp_path)
    write_run(plan, folder)
    said = [TEXT.get(name, "it said {} and failed").format(secret) for name, secret in PLANTED.items()]
    (folder / "worker.log").write_text("\n".join(said) + f"\nread {Path.home()}/models/x\n")
    (folder / "events.jsonl").write_text(
        "".join(json.dumps({"event": "warned", "message": line}) + "\n" for line in said)
    )
    write_report(Evidence(plan).report("failed", " ".join(said)), folder)
    (folder / "train.jsonl").write_text("somebody's data")
    return folder


def test_planted_secrets_are_in_no_file_of_the_bundle(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bug.zip"
    assert run_command(["runs", str(run_folder), "--bundle", str(out)]) == ExitCode.OK
    with zipfile.ZipFile(out) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert set(texts) == {"about.json", "events.jsonl", "plan.json", "report.json", "worker.log"}
    assert {(name, what) for name, text in texts.items() for what, secret in PLANTED.items() if secret in text} == set()
    assert texts["worker.log"].count(REMOVED) == len(PLANTED)
    assert "it said" in texts["worker.log"]
    assert "read ~/models/x" in texts["worker.log"]
    assert json.loads(texts["about.json"])["packages"] is not None
    assert f"{3 * len(PLANTED)} secrets removed" in capsys.readouterr().err


def test_a_file_that_is_there_is_not_replaced(run_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "bug.zip"
    out.write_text("somebody's")
    assert run_command(["runs", str(run_folder), "--bundle", str(out)]) == ExitCode.USAGE
    assert out.read_text() == "somebody's"
    assert run_command(["runs", "--bundle", str(out)]) == ExitCode.USAGE


def test_a_bundle_that_finds_no_room_leaves_nothing(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    assert run_command(["runs", str(run_folder), "--bundle", str(tmp_path / "bug.zip")]) == ExitCode.USAGE
    assert "No space left on device" in capsys.readouterr().err
    assert not (tmp_path / "bug.zip").exists()


def test_a_long_log_gives_its_end(run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramplan.executor.bundle.MOST_BYTES", 10)
    (run_folder / "worker.log").write_text("x" * 100 + "the last\n")
    write_bundle(run_folder, tmp_path / "bug.zip", Redactor({}))
    with zipfile.ZipFile(tmp_path / "bug.zip") as archive:
        assert archive.read("worker.log") == b"xthe last\n"


@pytest.mark.parametrize(
    "harmless",
    [
        "input tokens: 1024000 a step",
        '"tokens": 16384000, "tokens_per_second": 1234567890',
        '"fingerprint": "' + "0123456789abcdef" * 4 + '"',
        "tokenizer_config.json and special_tokens_map.json",
        "see https://example.org/a/b",
    ],
)
def test_what_is_no_secret_stays(harmless: str) -> None:
    redactor = Redactor({"TOKENIZERS_PARALLELISM": "false", "HF_TOKEN": ""})
    assert redactor.clean(harmless) == harmless
    assert redactor.removed == 0
