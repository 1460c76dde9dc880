"""A model on the Hugging Face Hub: config.json and safetensors headers at one commit, never a weight, never code.

Everything goes through huggingface_hub, which finds the token itself; no token is read, printed or stored here.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vramplan.planner.adapters.folder import CONFIG, read_folder
from vramplan.planner.adapters.model_files import model_from_files
from vramplan.planner.adapters.safetensors_headers import (
    INDEX,
    MAX_INDEX_BYTES,
    ONE_FILE,
    TensorInfo,
    check_tensor,
    shards_of_index,
)
from vramplan.planner.config_check import MAX_FILE_BYTES, parse_config
from vramplan.planner.errors import (
    BadConfigError,
    GatedModelError,
    HubError,
    ModelMissingError,
    OfflineError,
    UnknownModelError,
    UnsupportedError,
)
from vramplan.planner.model_spec import ModelSpec

TIMEOUT_SECONDS = 10.0
"""For each request; huggingface_hub's own client has none."""

HEADER_REQUESTS = 8
"""Shards asked for at a time."""


def read_hub(repo_id: str, *, revision: str | None = None) -> ModelSpec:
    """The model at a branch, tag or commit (default: main), pinned to the commit it stands for.

    Raises:
        ModelMissingError: no such repository or revision, or a private one.
        GatedModelError: access must be asked for.
        OfflineError: no network, a timeout, or HF_HUB_OFFLINE is set.
        HubError: the Hub is busy or broken.
        BadConfigError, UnsupportedError, MissingExtraError: as for a folder.
    """
    from huggingface_hub import HfApi

    with our_errors(repo_id, revision):
        info = HfApi().model_info(repo_id, revision=revision, timeout=TIMEOUT_SECONDS)
        commit = str(info.sha)
        files = {sibling.rfilename for sibling in info.siblings or ()}
        if CONFIG not in files:
            raise UnsupportedError(
                f"{repo_id!r} has no {CONFIG}, so it is no transformers model (a GGUF file or an adapter is none)",
                remedy="name the transformers repository it was made from",
            )
        config = parse_config(_fetch(repo_id, CONFIG, commit), f"{CONFIG} of {repo_id!r}")
        tensors = _headers(repo_id, commit, files)
    return model_from_files(
        config,
        tensors,
        repo_id=info.id,
        source="hub",
        revision=commit,
        license=license_of(info.tags),
        gated=None if info.gated is None else bool(info.gated),
    )


def read_cached(repo_id: str, *, revision: str | None = None) -> ModelSpec | None:
    """The model as an earlier download left it in the Hub's cache on this machine; None: it is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repo_id, CONFIG, revision=revision)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    model = read_folder(snapshot)
    provenance = model.provenance.model_copy(update={"source": "hub", "location": repo_id})
    return model.model_copy(update={"repo_id": repo_id, "revision": snapshot.name, "provenance": provenance})


def offline_error(repo_id: str, revision: str | None) -> OfflineError:
    """What to say when only the Hub could answer and it may not be asked."""
    at = f" at revision {revision[:60]!r}" if revision else ""
    return OfflineError(
        f"{repo_id[:120]!r}{at} is only on the Hub, and this command is offline",
        remedy="unset HF_HUB_OFFLINE, or name a catalogue model or a folder: vramplan models",
    )


def _fetch(repo_id: str, name: str, commit: str, limit_bytes: int = MAX_FILE_BYTES) -> bytes:
    """A small file's content; no more than the limit is asked for."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    response = get_session().get(
        hf_hub_url(repo_id, name, revision=commit),
        headers={**build_hf_headers(), "range": f"bytes=0-{limit_bytes}"},
        timeout=TIMEOUT_SECONDS,
        follow_redirects=True,
    )
    hf_raise_for_status(response)
    return bytes(response.content)


def _headers(repo_id: str, commit: str, files: set[str]) -> dict[str, TensorInfo] | None:
    """Every stored tensor, from the header of each safetensors file; None: the repository has none."""
    if INDEX in files:
        names = shards_of_index(_fetch(repo_id, INDEX, commit, MAX_INDEX_BYTES))
    elif ONE_FILE in files:
        names = [ONE_FILE]
    else:
        return None
    with ThreadPoolExecutor(HEADER_REQUESTS) as pool:
        found = list(pool.map(lambda name: _header(repo_id, name, commit), names))
    return {name: tensor for header in found for name, tensor in header.items()}


def _header(repo_id: str, name: str, commit: str) -> dict[str, TensorInfo]:
    from huggingface_hub import HfApi

    try:
        metadata = HfApi().parse_safetensors_file_metadata(repo_id, name, revision=commit, timeout=TIMEOUT_SECONDS)
    except (TypeError, KeyError, AttributeError):  # it multiplies whatever the header calls a shape
        raise BadConfigError(
            f"the safetensors header of {name[:80]!r} in {repo_id!r} makes no sense",
            remedy="name another revision, or tell its owner",
        ) from None
    for key, tensor in metadata.tensors.items():  # huggingface_hub hands on whatever the header says
        check_tensor(key, tensor.dtype, tensor.shape, f"{name[:80]!r} of {repo_id!r}")
    return {key: TensorInfo(tensor.dtype, tuple(tensor.shape)) for key, tensor in metadata.tensors.items()}


def license_of(tags: list[str] | None) -> str | None:
    """The licence among a repository's tags."""
    return next((tag.partition(":")[2] for tag in tags or () if tag.startswith("license:")), None)


@contextmanager
def our_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    """Turn what huggingface_hub and its HTTP client raise into errors that say what to do."""
    from huggingface_hub import errors

    client_error: type[Exception] = errors.HfHubHTTPError.__mro__[1]  # httpx2.HTTPError; httpx's before hub 2
    shown, at = f"{repo_id[:120]!r}", f" at revision {revision[:60]!r}" if revision else ""
    try:
        yield
    except errors.HFValidationError:
        raise UnknownModelError(f"{shown} is not a Hub id", remedy="write it as owner/name") from None
    except errors.GatedRepoError:
        raise GatedModelError(
            f"{shown} is gated and this machine has no access to it",
            remedy=f"accept its terms at https://huggingface.co/{repo_id}, then run: hf auth login",
        ) from None
    except errors.RevisionNotFoundError:
        raise ModelMissingError(
            f"{shown} has no revision {revision!r}", remedy="leave out --revision for its main branch"
        ) from None
    except errors.RepositoryNotFoundError:
        raise ModelMissingError(
            f"the Hub has no model {shown}, or it is private",
            remedy="check the spelling; for a private model run: hf auth login",
        ) from None
    except (errors.SafetensorsParsingError, errors.NotASafetensorsRepoError):
        raise BadConfigError(
            f"a safetensors header of {shown}{at} cannot be read", remedy="name another revision, or tell its owner"
        ) from None
    except errors.OfflineModeIsEnabled:
        raise offline_error(repo_id, revision) from None
    except errors.HfHubHTTPError as problem:
        raise _refused(shown, problem) from None
    except client_error as problem:
        slow = "Timeout" in type(problem).__name__
        raise OfflineError(
            f"{shown} is only on the Hub, which "
            + (f"did not answer within {TIMEOUT_SECONDS:.0f} s" if slow else "cannot be reached"),
            remedy="check the network; catalogue models and folders work offline: vramplan models",
        ) from None


def _refused(shown: str, problem: Any) -> HubError:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    status = problem.response.status_code
    if status == 429:
        limit = parse_ratelimit_headers(problem.response.headers)
        wait = f"in {limit.reset_in_seconds} s" if limit else "in a few minutes"
        return HubError(
            "the Hub asks this machine to slow down", remedy=f"try again {wait}; hf auth login raises the limit"
        )
    return HubError(f"the Hub answered {status} about {shown}", remedy="try again later")
