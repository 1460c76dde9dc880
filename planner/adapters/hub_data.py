"""A data set on the Hub as a folder here: its data files at one commit, downloaded once. Its code is never fetched."""

import re
from pathlib import Path

from vramplan.planner.errors import GatedModelError, HubError, ModelMissingError, OfflineError, UsageError

PREFIX = "hf://datasets/"
_NAME = re.compile(r"(?P<repo>[\w.-]{1,96}/[\w.-]{1,96})(?:@(?P<revision>[\w./-]{1,120}))?")
_FILES = [f"*.{ending}" for ending in ("jsonl", "ndjson", "json", "csv", "tsv", "parquet")]
_NOT_ROWS = ["dataset_infos.json", "*/.*", ".*"]


def local_data(named: str) -> Path:
    """The path of training data; of ``hf://datasets/OWNER/NAME[@REVISION]``, the folder it was downloaded to.

    Raises:
        UsageError: the name is not one of a data set.
        HubError: the Hub cannot be reached, or has no such data set for this account.
    """
    if not named.startswith(PREFIX):
        return Path(named)
    found = _NAME.fullmatch(named.removeprefix(PREFIX))
    if found is None:
        raise UsageError(f"{named[:120]!r} names no data set", remedy=f"write {PREFIX}OWNER/NAME or ...@REVISION")
    return _downloaded(found["repo"], found["revision"])


def _downloaded(repo_id: str, revision: str | None) -> Path:
    from huggingface_hub import errors, snapshot_download  # 0.2 s, and only where it is asked for

    try:
        folder = snapshot_download(
            repo_id, repo_type="dataset", revision=revision, allow_patterns=_FILES, ignore_patterns=_NOT_ROWS
        )
    except errors.HFValidationError as error:
        raise UsageError(f"{repo_id[:120]!r} names no data set", remedy=f"write {PREFIX}OWNER/NAME") from error
    except errors.GatedRepoError as error:
        remedy = "accept its terms on the Hub, and log in: hf auth login"
        raise GatedModelError(f"the data set {repo_id} is gated", remedy=remedy) from error
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        at = f" at {revision}" if revision else ""
        raise ModelMissingError(f"the Hub has no data set {repo_id}{at}", remedy="check the spelling") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, OSError) as error:
        raise OfflineError(
            f"the Hub cannot be reached for the data set {repo_id}, and it is not in the cache",
            remedy="download it where there is a network, and name the folder with --data",
        ) from error
    except errors.HfHubHTTPError as error:
        raise HubError(f"the Hub did not give the data set {repo_id}: {str(error)[:200]!r}") from error
    return Path(folder)
