"""A data set on the Hub: its data files alone, at one commit, and an error of our own for everything else."""

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.adapters.hub_data import local_data
from vramplan.planner.errors import HubError, OfflineError, UsageError


def test_a_path_is_a_path() -> None:
    assert local_data("rows/train.jsonl") == Path("rows/train.jsonl")


def test_only_data_files_are_asked_for_and_they_are_read_as_a_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: dict[str, Any] = {}
    (tmp_path / "train.csv").write_text("text\none\n")

    def download(repo_id: str, **options: Any) -> str:
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    folder = local_data("hf://datasets/owner/some-data@v1.0")
    assert (asked["repo_id"], asked["repo_type"], asked["revision"]) == ("owner/some-data", "dataset", "v1.0")
    assert not {"*.py", "*"} & set(asked["allow_patterns"])
    assert read_rows(folder).rows == ({"text": "one"},)


@pytest.mark.parametrize(
    "name", ["hf://datasets/", "hf://datasets/only", "hf://datasets/a/b/../c", "hf://datasets/a/b@"]
)
def test_what_names_no_data_set_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="names no data set"):
        local_data(name)


@pytest.mark.parametrize(
    ("raised", "ours"),
    [
        (errors.LocalEntryNotFoundError("no network"), OfflineError),
        (errors.OfflineModeIsEnabled("offline"), OfflineError),
        (OSError("unreachable"), OfflineError),
    ],
)
def test_the_hubs_refusals_are_ours(raised: Exception, ours: type[HubError], monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo_id: str, **options: Any) -> str:
        raise raised

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ours) as caught:
        local_data("hf://datasets/owner/name")
    assert caught.value.remedy
