"""The search on the Hub, spoken to through a transport that answers as the Hub's list of models does."""

from collections.abc import Callable, Iterator
from importlib import import_module

import pytest

httpx2 = pytest.importorskip("httpx2")
huggingface_hub = pytest.importorskip("huggingface_hub", minversion="2")

from vramplan.planner.adapters.hub_search import HubModel, search_hub  # noqa: E402
from vramplan.planner.errors import HubError, OfflineError  # noqa: E402

LISTED = [
    {
        "id": "Qwen/Qwen3-8B", "downloads": 4_000_000, "gated": False, "tags": ["transformers", "license:apache-2.0"],
        "safetensors": {"parameters": {"BF16": 8_190_735_360}, "total": 8_190_735_360},
    },
    {"id": "meta-llama/Qwen-like", "downloads": 12, "gated": "manual", "tags": ["license:llama3.1"]},
]  # fmt: skip


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[object], object]], None]]:
    """Let huggingface_hub speak to a handler."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    factory = import_module("huggingface_hub.utils._http").default_client_factory

    def install(handler: Callable[[object], object]) -> None:
        transport = httpx2.MockTransport(handler)
        huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=transport))

    yield install
    huggingface_hub.set_client_factory(factory)


def test_what_the_list_says_of_a_repository_is_kept_and_the_rest_is_unknown(serve) -> None:
    asked = []

    def answer(request):
        if request.url.path != "/api/models":
            return httpx2.Response(404, request=request)
        asked.append(dict(request.url.params))
        return httpx2.Response(200, json=LISTED, request=request)

    serve(answer)
    assert search_hub("qwen") == (
        HubModel(id="Qwen/Qwen3-8B", downloads=4_000_000, params=8_190_735_360, license="apache-2.0", gated=False),
        HubModel(id="meta-llama/Qwen-like", downloads=12, params=None, license="llama3.1", gated=True),
    )
    assert (asked[0]["search"], asked[0]["sort"], asked[0]["filter"]) == ("qwen", "downloads", "transformers")


def test_a_hub_that_cannot_be_reached_is_said_to_be(serve) -> None:
    def broken(request):
        raise httpx2.ConnectError("no route", request=request)

    serve(broken)
    with pytest.raises(OfflineError):
        search_hub("qwen")


def test_a_hub_that_is_busy_is_said_to_be(serve) -> None:
    serve(lambda request: httpx2.Response(429, request=request))
    with pytest.raises(HubError, match="slow down"):
        search_hub("qwen")


def test_nobody_is_asked_where_the_hub_may_not_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(OfflineError, match="HF_HUB_OFFLINE"):
        search_hub("qwen")
