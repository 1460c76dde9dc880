"""Models on the Hub by name: how often each is downloaded, its size, licence and whether access must be asked for.

Only what the Hub says of a repository is read: no file of it. A size is known where the Hub has read the safetensors
headers itself.
"""

from vramplan.planner.adapters.hub import license_of, our_errors
from vramplan.planner.errors import OfflineError
from vramplan.planner.values import Value


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
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise OfflineError("the Hub may not be asked: HF_HUB_OFFLINE is set", remedy="unset it, or name a folder")
    with our_errors(query, None):
        found = HfApi().list_models(
            search=query,
            filter="transformers",
            sort="downloads",
            limit=limit,
            expand=["downloads", "gated", "safetensors", "tags"],
        )
        return tuple(
            HubModel(
                id=each.id,
                downloads=each.downloads,
                params=None if each.safetensors is None else each.safetensors.total,
                license=license_of(each.tags),
                gated=None if each.gated is None else bool(each.gated),
            )
            for each in found
        )
