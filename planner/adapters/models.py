"""Find a model by what a person types, and search the catalogue.

A text is, in this order: a folder (or its config.json), a catalogue id, alias or bare name, a Hub id.
"""

import difflib
import os
from contextlib import suppress
from functools import cache
from pathlib import Path

from vramplan.planner.adapters import catalogue
from vramplan.planner.errors import ModelMissingError, OfflineError, UnknownModelError
from vramplan.planner.model_spec import ModelSpec
from vramplan.planner.values import Value

RENAMED = {
    "meta-llama/meta-llama-3.1-8b": "meta-llama/Llama-3.1-8B",
    "meta-llama/meta-llama-3.1-8b-instruct": "meta-llama/Llama-3.1-8B-Instruct",
    "meta-llama/meta-llama-3.1-70b": "meta-llama/Llama-3.1-70B",
    "meta-llama/meta-llama-3.1-70b-instruct": "meta-llama/Llama-3.1-70B-Instruct",
    "meta-llama/meta-llama-3.1-405b": "meta-llama/Llama-3.1-405B",
    "meta-llama/meta-llama-3.1-405b-instruct": "meta-llama/Llama-3.1-405B-Instruct",
}
"""Repositories the Hub redirects from a name they had before."""


class ModelSummary(Value):
    """One line of a model list."""

    id: str
    aliases: tuple[str, ...]
    """Other repositories with the same architecture and parameter count."""
    params: int
    model_type: str
    license: str | None
    gated: bool | None
    context_length: int | None


def resolve_model(text: str, *, revision: str | None = None, online: bool = True) -> ModelSpec:
    """The model a person means.

    Args:
        text: a folder holding config.json, a catalogue id, alias or bare name (case does not matter), or a Hub id.
        revision: a branch, tag or commit; makes a name mean the Hub's model at that revision.
        online: whether the Hub may be asked; ``HF_HUB_OFFLINE=1`` forbids it too.

    Raises:
        UnknownModelError: nothing has this name; the nearest names are offered.
        BadConfigError: the folder's or repository's config.json or safetensors header is broken or absurd.
        UnsupportedError: an architecture whose weights cannot be counted.
        MissingExtraError: an architecture whose weights only transformers can count, and it is not installed.
        HubError: the Hub did not give the model (missing, gated, offline, busy).
    """
    name = text.strip()
    folder = folder_of(name)
    if folder is not None:
        from vramplan.planner.adapters.folder import read_folder

        return read_folder(folder)
    found = _names().get(RENAMED.get(name.lower(), name).lower())
    if found is not None and revision is None:
        return catalogue.model_spec(*found)
    return _from_hub(found[1] if found is not None else name, revision, online)


def folder_of(text: str) -> Path | None:
    """The folder a text names, itself or by its config.json; None: it names none."""
    with suppress(OSError, RuntimeError, ValueError):  # too long, an unknown ~user, a NUL
        path = Path(text).expanduser()
        if text and (path.is_dir() or path.name == "config.json"):
            return path if path.is_dir() else path.parent
    return None


def _from_hub(repo_id: str, revision: str | None, online: bool) -> ModelSpec:
    """The model from the Hub, or offline from its cache on this machine."""
    if not _is_hub_id(repo_id):
        raise _unknown(repo_id, online=online)
    from vramplan.planner.adapters.hub import offline_error, read_cached, read_hub

    if online and not _offline():
        try:
            return read_hub(repo_id, revision=revision)
        except (ModelMissingError, OfflineError) as problem:
            nearest = _nearest(repo_id)
            if revision is None and nearest:
                raise type(problem)(problem.message, remedy=f"did you mean {', '.join(nearest)}?") from None
            raise
    cached = read_cached(repo_id, revision=revision)
    if cached is not None:
        return cached
    if revision is not None:
        raise offline_error(repo_id, revision)
    raise _unknown(repo_id, online=online)


def search_models(query: str, limit: int = 20) -> tuple[ModelSummary, ...]:
    """Catalogue models matching every word of the query, best first; an empty query lists the catalogue by name."""
    words = query.lower().split()
    scored = [(score, entry.id.lower(), entry) for entry in catalogue.entries() if (score := _score(entry, words))]
    scored.sort(key=lambda each: each[:2])
    return tuple(_summary(entry) for _, _, entry in scored[:limit])


def catalogue_size() -> int:
    """How many models the catalogue has."""
    return len(catalogue.entries())


def summary(name: str) -> ModelSummary | None:
    """The catalogue line of a model under any of its names; None: not in the catalogue."""
    found = _names().get(RENAMED.get(name.lower(), name).lower())
    return _summary(found[0]) if found else None


def _summary(entry: catalogue.Entry) -> ModelSummary:
    return ModelSummary(**entry._asdict())


def _score(entry: catalogue.Entry, words: list[str]) -> tuple[int, ...] | None:
    """How well the words match, 0 best: whole name, its start, a word's start, inside, in an alias, the type."""
    bare = entry.id.lower().rpartition("/")[2]
    aliases = " ".join(entry.aliases).lower()
    ranks: list[int] = []
    for word in words:
        if word in (bare, entry.id.lower()):
            ranks.append(0)
        elif bare.startswith(word) or entry.id.lower().startswith(word):
            ranks.append(1)
        elif any(part.startswith(word) for part in bare.replace("_", "-").split("-")):
            ranks.append(2)
        elif word in entry.id.lower():
            ranks.append(3)
        elif word in aliases:
            ranks.append(4)
        elif word in entry.model_type:
            ranks.append(5)
        else:
            return None
    return (max(ranks, default=0), sum(ranks))


@cache
def _names() -> dict[str, tuple[catalogue.Entry, str]]:
    """Every lower-case name -> (entry, repository id). Whole names win over bare ones, ids over aliases."""
    names: dict[str, tuple[catalogue.Entry, str]] = {}
    ids = [(entry, entry.id) for entry in catalogue.entries()]
    aliases = [(entry, alias) for entry in catalogue.entries() for alias in entry.aliases]
    for entry, repo_id in ids + aliases:
        names.setdefault(repo_id.lower(), (entry, repo_id))
    for entry, repo_id in ids + aliases:
        names.setdefault(repo_id.lower().rpartition("/")[2], (entry, repo_id))
    return names


def _is_hub_id(name: str) -> bool:
    owner, slash, repository = name.partition("/")
    return bool(owner and repository and slash) and "/" not in repository and not name.startswith((".", "~"))


def _offline() -> bool:
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in _OFFLINE_SWITCHES)


_OFFLINE_SWITCHES = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
"""What huggingface_hub itself reads (huggingface_hub/constants.py)."""


def _nearest(name: str) -> list[str]:
    nearest = difflib.get_close_matches(name.lower(), list(_names()), n=8, cutoff=0.6)
    return list(dict.fromkeys(_names()[each][1] for each in nearest))[:3]


def _unknown(name: str, *, online: bool) -> UnknownModelError:
    offered = _nearest(name)
    reason = "" if online and not _offline() else ", and the Hub was not asked (offline)"
    return UnknownModelError(
        f"no folder or catalogue model is called {name[:120]!r}{reason}",
        remedy=f"did you mean {', '.join(offered)}?" if offered else "see the catalogue: vramplan models",
    )
