"""Models on the Hub by name: how often each is downloaded, its size, licence and whether access must be asked for.

Only what the Hub says of a repository is read: no file of it. A size is known where the Hub has read the safetensors
headers itself.
"""

from typing import Any

from vramplan.planner.adapters.hub import TIMEOUT_SECONDS, license_of, our_errors
from vramplan.planner.errors import OfflineError
from vramplan.planner.values import Value

EXPANDED = ["downloads", "gated", "safetensors", "tags"]
"""What the list is asked to say of each repository."""


class HubModel(Value):
    """A repository as a search finds it; None is not said."""

    id: str
    downloads: int | None
    """In the last 30 days."""
    params: int | None
    license: str | None
    gated: bool | None


def search_hub(query: str, limit: int = 50) -> tuple[HubModel, ...]:
    """transformers repositories whose name holds the query, the most downloaded first.

    Raises:
        OfflineError: no network, a timeout, or the Hub may not be asked.
        HubError: the Hub is busy or broken.
    """
    from huggingface_hub import ModelInfo, constants, get_session
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status  # type: ignore[attr-defined]

    if constants.HF_HUB_OFFLINE:
        raise OfflineError("the Hub may not be asked: HF_HUB_OFFLINE is set", remedy="unset it, or name a folder")
    asked: dict[str, Any] = {
        "search": query,
        "filter": "transformers",
        "sort": "downloads",
        "limit": limit,
        "expand": EXPANDED,
    }
    with our_errors(query, None):
        # HfApi.list_models asks six times, with 23 s of waiting in between: too long for somebody who types
        response = get_session().get(
            f"{constants.ENDPOINT}/api/models", params=asked, headers=build_hf_headers(), timeout=TIMEOUT_SECONDS
        )
        hf_raise_for_status(response)
        return tuple(
            HubModel(
                id=each.id,
                downloads=each.downloads,
                params=None if each.safetensors is None else each.safetensors.total,
                license=license_of(each.tags),
                gated=None if each.gated is None else bool(each.gated),
            )
            for each in (ModelInfo(**found) for found in response.json())  # type: ignore[no-untyped-call]
        )
