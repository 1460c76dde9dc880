"""Models on the Hub, spoken to through a transport that answers as the Hub does."""

import json
import os
import struct
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import pytest

httpx2 = pytest.importorskip("httpx2")
huggingface_hub = pytest.importorskip("huggingface_hub", minversion="2")

from tests.fakes import make_model_spec  # noqa: E402
from tests.model_files import LLAMA, LLAMA_PARAMS, header_bytes, llama_tensors  # noqa: E402
from vramplan.planner.adapters import hub  # noqa: E402
from vramplan.planner.adapters.models import resolve_model  # noqa: E402
from vramplan.planner.adapters.tokenizer_files import find_tokenizer  # noqa: E402
from vramplan.planner.errors import (  # noqa: E402
    BadConfigError,
    ExitCode,
    GatedModelError,
    HubError,
    ModelMissingError,
    OfflineError,
    UnknownModelError,
    UnsupportedError,
)
from vramplan.planner.model_spec import Provenance  # noqa: E402

COMMIT = "a" * 40
HUB = Provenance(source="hub", location="org/absent", parameters_basis="counted from config.json")
Handler = Callable[[object], object]


def answer(request, files: dict[str, bytes], **info) -> object:
    """What the Hub answers about org/model with these files."""
    path = request.url.path
    if path.startswith("/api/models/org/model"):
        content = {"id": "org/model", "sha": COMMIT, "gated": False, "tags": ["license:apache-2.0"], "private": False}
        content["siblings"] = [{"rfilename": name} for name in files]
        return httpx2.Response(200, json=content | info, request=request)
    prefix = f"/org/model/resolve/{COMMIT}/"
    if path.startswith(prefix) and path.removeprefix(prefix) in files:
        start, _, end = request.headers["range"].removeprefix("bytes=").partition("-")
        return httpx2.Response(
            206, content=files[path.removeprefix(prefix)][int(start) : int(end) + 1], request=request
        )
    return httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound"}, request=request)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Handler], None]]:
    """Let huggingface_hub speak to a handler."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    factory = import_module("huggingface_hub.utils._http").default_client_factory

    def install(handler: Handler) -> None:
        transport = httpx2.MockTransport(handler)
        huggingface_hub.set_client_factory(lambda: httpx2.Client(transport=transport, follow_redirects=True))

    yield install
    huggingface_hub.set_client_factory(factory)


def llama_files(**more: bytes) -> dict[str, bytes]:
    return {"config.json": json.dumps(LLAMA).encode(), **more}


def test_a_model_is_pinned_to_its_commit_and_counted_from_config_and_header(serve) -> None:
    asked = []

    def handler(request):
        asked.append(request.url.path)
        return answer(request, llama_files(**{"model.safetensors": header_bytes(llama_tensors("F16"))}))

    serve(handler)
    model = hub.read_hub("org/model")
    assert (model.repo_id, model.revision, model.license, model.gated) == ("org/model", COMMIT, "apache-2.0", False)
    assert (model.total_params, model.published_params) == (LLAMA_PARAMS, LLAMA_PARAMS)
    assert model.checkpoint_dtype == "fp16"
    assert model.provenance.source == "hub"
    assert all("/main/" not in path for path in asked)


def test_shards_are_read_through_their_index(serve) -> None:
    tensors = list(llama_tensors().items())
    parts = {
        "model-00001-of-00002.safetensors": dict(tensors[:8]),
        "model-00002-of-00002.safetensors": dict(tensors[8:]),
    }
    index = {"weight_map": {name: shard for shard, part in parts.items() for name in part}}
    files = llama_files(**{"model.safetensors.index.json": json.dumps(index).encode()})
    files |= {name: header_bytes(part) for name, part in parts.items()}
    serve(lambda request: answer(request, files))
    assert hub.read_hub("org/model").published_params == LLAMA_PARAMS


def test_a_repository_without_safetensors_is_counted_from_its_config(serve) -> None:
    serve(lambda request: answer(request, llama_files(**{"pytorch_model.bin": b""})))
    model = hub.read_hub("org/model")
    assert (model.total_params, model.published_params) == (LLAMA_PARAMS, None)


def test_a_catalogue_model_with_a_revision_is_asked_of_the_hub(serve) -> None:
    asked = []

    def handler(request):
        asked.append(request.url.path)
        return httpx2.Response(404, headers={"X-Error-Code": "RevisionNotFound"}, request=request)

    serve(handler)
    with pytest.raises(ModelMissingError, match=r"'openai-community/gpt2' has no revision 'v9'"):
        resolve_model("gpt2", revision="v9")
    assert "/api/models/openai-community/gpt2/revision/v9" in asked


@pytest.mark.parametrize(
    ("status", "headers", "expected", "words"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, GatedModelError, "gated"),
        (401, {"X-Error-Code": "GatedRepo"}, GatedModelError, "gated"),
        (404, {"X-Error-Code": "RepoNotFound"}, ModelMissingError, "the Hub has no model"),
        (401, {}, ModelMissingError, "the Hub has no model"),
        (
            429,
            {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'},
            HubError,
            "slow",
        ),
        (500, {}, HubError, "answered 500"),
    ],
)
def test_each_refusal_is_an_error_of_its_own_with_a_remedy(
    serve, status: int, headers: dict[str, str], expected: type[HubError], words: str
) -> None:
    serve(lambda request: httpx2.Response(status, headers=headers, request=request))
    with pytest.raises(HubError) as caught:
        resolve_model("org/model")
    assert type(caught.value) is expected
    assert words in caught.value.message
    assert caught.value.remedy
    assert caught.value.exit_code == ExitCode.UNREACHABLE


def test_a_rate_limit_says_how_long_to_wait(serve) -> None:
    headers = {"ratelimit": '"api";r=0;t=55', "ratelimit-policy": '"fixed window";"api";q=500;w=300'}
    serve(lambda request: httpx2.Response(429, headers=headers, request=request))
    with pytest.raises(HubError) as caught:
        hub.read_hub("org/model")
    assert "55 s" in (caught.value.remedy or "")


def test_a_gated_config_is_gated_even_when_its_page_is_public(serve) -> None:
    def handler(request):
        if request.url.path.startswith("/api/"):
            return answer(request, llama_files(), gated="manual")
        return httpx2.Response(403, headers={"X-Error-Code": "GatedRepo"}, request=request)

    serve(handler)
    with pytest.raises(GatedModelError) as caught:
        hub.read_hub("org/model")
    assert "https://huggingface.co/org/model" in (caught.value.remedy or "")


@pytest.mark.parametrize(
    ("failure", "words"),
    [(httpx2.ConnectError("refused"), "cannot be reached"), (httpx2.ReadTimeout("slow"), "did not answer within 10 s")],
)
def test_no_network_and_a_slow_hub_are_told_apart(serve, failure: Exception, words: str) -> None:
    def handler(request):
        raise failure

    serve(handler)
    with pytest.raises(OfflineError, match=words):
        resolve_model("org/model")


@pytest.mark.parametrize(
    ("respond", "words"),
    [
        (httpx2.ConnectError("no route"), "out of reach"),
        (httpx2.Response(403, headers={"X-Error-Code": "GatedRepo"}), "is gated"),
        (httpx2.Response(404, headers={"X-Error-Code": "EntryNotFound"}), "the Hub did not give tokenizer.json"),
    ],
)
def test_a_tokenizer_out_of_reach_is_asked_for_once(serve, respond: object, words: str) -> None:
    """huggingface_hub's download would ask six times, and wait 23 s in between."""
    asked = []

    def handler(request):
        asked.append(request.url.path)
        if isinstance(respond, Exception):
            raise respond
        return httpx2.Response(respond.status_code, headers=respond.headers, request=request)

    serve(handler)
    assert words in str(find_tokenizer(make_model_spec(repo_id="org/absent", revision=None, provenance=HUB)))
    assert asked == ["/org/absent/resolve/main/tokenizer.json"]


def test_a_name_near_a_catalogue_model_offers_it_when_the_hub_has_none(serve) -> None:
    serve(lambda request: httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"}, request=request))
    with pytest.raises(ModelMissingError) as caught:
        resolve_model("meta-lama/Llama-3.1-8b")
    assert "meta-llama/Llama-3.1-8B" in (caught.value.remedy or "")


def test_offline_the_hub_is_not_asked(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def handler(request):
        raise AssertionError("asked")

    serve(handler)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownModelError, match="offline"):
        resolve_model("org/model")
    with pytest.raises(OfflineError, match="is only on the Hub"):
        resolve_model("gpt2", revision="main")
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with pytest.raises(UnknownModelError, match="offline"):
        resolve_model("org/model", online=False)


def test_offline_a_model_downloaded_before_is_read_from_the_cache(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(import_module("huggingface_hub.constants").HF_HUB_CACHE) / "models--org--cached"
    snapshot = folder / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(COMMIT)
    (snapshot / "config.json").write_text(json.dumps(LLAMA))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = resolve_model("org/cached")
    assert (model.repo_id, model.revision, model.total_params) == ("org/cached", COMMIT, LLAMA_PARAMS)


def test_a_repository_without_a_config_is_no_transformers_model(serve) -> None:
    serve(lambda request: answer(request, {"model.gguf": b""}))
    with pytest.raises(UnsupportedError, match=r"has no config\.json"):
        hub.read_hub("org/model")


def test_a_broken_config_and_a_broken_header_are_refused(serve) -> None:
    serve(lambda request: answer(request, {"config.json": b"<html>"}))
    with pytest.raises(BadConfigError, match="is not JSON"):
        hub.read_hub("org/model")
    serve(lambda request: answer(request, llama_files(**{"model.safetensors": b"\xff" * 64})))
    with pytest.raises(BadConfigError, match="safetensors header"):
        hub.read_hub("org/model")


@pytest.mark.parametrize("entry", [{"shape": [-5]}, {"shape": ["a"]}, {"shape": [1] * 100}, {"dtype": "X"}])
def test_a_hub_headers_shape_is_checked_like_a_files(serve, entry: dict[str, object]) -> None:
    content = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()
    header = struct.pack("<Q", len(content)) + content
    serve(lambda request: answer(request, llama_files(**{"model.safetensors": header + bytes(8)})))
    with pytest.raises(BadConfigError):
        hub.read_hub("org/model")


def test_a_config_larger_than_any_config_is_not_read_whole(serve) -> None:
    files = {"config.json": b"{" + b" " * 30_000_000 + b"}"}
    serve(lambda request: answer(request, files))
    with pytest.raises(BadConfigError, match="larger than 10 MB"):
        hub.read_hub("org/model")


def test_no_token_is_in_an_error(serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_averysecrettoken")

    def handler(request):
        return httpx2.Response(500, text=f"seen {request.headers.get('authorization')}", request=request)

    serve(handler)
    with pytest.raises(HubError) as caught:
        hub.read_hub("org/model")
    assert "secret" not in f"{caught.value}{caught.value.__cause__}{caught.value.__suppress_context__}"
    assert os.environ["HF_TOKEN"] == "hf_averysecrettoken"
