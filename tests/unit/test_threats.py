"""What strangers wrote (a model, its headers, data, plans, checkpoints) cannot leave its folder, grow without bound, or
speak to the terminal. Each test stands in docs/threats.md."""

import json
import os
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, run
from tests.model_files import LLAMA, LLAMA_PARAMS, header_bytes, llama_tensors, write_config
from vramplan.executor.checkpoints import folders
from vramplan.planner.adapters import data_files
from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.adapters.folder import read_folder
from vramplan.planner.adapters.hub_data import local_data
from vramplan.planner.adapters.model_files import weights_from_headers
from vramplan.planner.adapters.models import resolve_model
from vramplan.planner.adapters.plan_files import read_plan
from vramplan.planner.adapters.safetensors_headers import TensorInfo, parse_header
from vramplan.planner.adapters.tokenizer_files import find_tokenizer
from vramplan.planner.cli.main import run_command
from vramplan.planner.config_check import parse_config
from vramplan.planner.errors import BadConfigError, BadDataError, CorruptPlanError, UsageError
from vramplan.planner.plan_hash import file_sha256_of

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    write_config(folder, LLAMA)
    (folder / "model.safetensors").write_bytes(header_bytes(llama_tensors()))
    return folder


def _moved_out(file: Path) -> None:
    """The file lies outside its folder now, with a link in its place."""
    outside = file.parent.parent / f"outside-{file.name}"
    file.rename(outside)
    file.symlink_to(outside)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
def test_a_models_files_cannot_be_links_out_of_its_folder(name: str, model: Path) -> None:
    if name.endswith("index.json"):
        (model / name).write_text(json.dumps({"weight_map": dict.fromkeys(llama_tensors(), "model.safetensors")}))
    assert read_folder(model).total_params == LLAMA_PARAMS
    _moved_out(model / name)
    with pytest.raises(BadConfigError, match="outside the folder"):
        read_folder(model)


def test_a_tokenizer_cannot_be_a_link_out_of_its_folder(model: Path) -> None:
    (model / "tokenizer.json").write_text("{}")
    assert not isinstance(find_tokenizer(read_folder(model)), str)
    _moved_out(model / "tokenizer.json")
    assert "outside the folder" in str(find_tokenizer(read_folder(model)))


def test_a_snapshot_in_the_hubs_cache_links_to_its_blobs_and_nowhere_else(model: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / ("0" * 40), tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for file in model.iterdir():
        file.rename(blobs / file.name)
        (snapshot / file.name).symlink_to(Path("../../blobs") / file.name)
    assert read_folder(snapshot).total_params == LLAMA_PARAMS
    (blobs / "config.json").rename(tmp_path / "config.json")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(BadConfigError, match="outside the folder"):
        read_folder(snapshot)


def test_a_data_folders_files_cannot_be_links_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "one"}\n')
    assert len(read_rows(folder).rows) == 1
    _moved_out(folder / "train.jsonl")
    with pytest.raises(BadDataError, match="outside the folder"):
        read_rows(folder)


@pytest.mark.parametrize("name", ["hf://datasets/../x", "hf://datasets/a/..", "hf://datasets/-a/b--c"])
def test_a_data_sets_name_cannot_climb_out_of_the_cache(name: str) -> None:
    with pytest.raises(UsageError, match="names no data set"):
        local_data(name)


def test_a_checkpoint_is_a_folder_of_its_own_and_no_link(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "elsewhere")
    for name in ("checkpoint-\N{SUPERSCRIPT TWO}", "checkpoint-x", "checkpoint-" + "9" * 99, "checkpoint-7"):
        (tmp_path / name).mkdir()
    assert [folder.name for folder in folders(tmp_path)] == ["checkpoint-7"]


def test_a_pipe_is_no_data_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.jsonl")
    with pytest.raises(BadDataError, match="a device or a pipe"):
        read_rows(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json", "rows.csv"])
def test_a_line_or_a_whole_file_beyond_its_bound_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(data_files, "MAX_JSON_BYTES", 1000)
    with (tmp_path / name).open("wb") as file:  # sparse: it takes no room on the disk
        file.write(b"text\n")
        file.truncate(2**40)
    with pytest.raises(BadDataError, match="more than"):
        read_rows(tmp_path / name)


def _header(**entry: Any) -> bytes:
    return json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | entry}).encode()


def test_a_shape_of_very_many_sizes_is_refused_before_it_is_multiplied() -> None:
    with pytest.raises(BadConfigError, match="the shape"):
        parse_header(_header(shape=[2**62] * 1_000_000, data_offsets=[0, 0]), "x", None)


def test_a_name_of_many_characters_and_a_layer_of_many_digits_stay_names() -> None:
    with pytest.raises(BadConfigError, match="2,000 characters"):
        parse_header(json.dumps({"a" * 2000: {}}).replace("{}", _header().decode()[6:-1]).encode(), "x", None)
    (weight,) = weights_from_headers({f"h.{'9' * 900}.w": TensorInfo("F32", (1,))}, {"model_type": "gpt2"})
    assert weight.layers == ()


def test_a_header_that_claims_1e18_bytes_is_refused_unread(model: Path) -> None:
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 10**18) + b"{}")
    with pytest.raises(BadConfigError, match="claims a header of 1,000,000,000,000,000,000 bytes"):
        read_folder(model)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 1_000_000},
        {"vision_config": {"depth": 10**9}},
        {"a": {"b": [{"c": {"num_blocks": [2, 10**18]}}]}},
        {"num_stages": 1e300},
        {"hidden_size": 10**18},
    ],
)
def test_a_config_of_a_million_layers_is_refused_wherever_it_says_so(changes: dict[str, Any]) -> None:
    with pytest.raises(BadConfigError, match="must be"):
        parse_config(json.dumps(LLAMA | changes).encode(), "config.json")


@pytest.mark.parametrize("depth", [33, 900, 200_000])
def test_a_deeply_nested_config_is_refused(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    with pytest.raises(BadConfigError, match="nested"):
        parse_config(f'{{"model_type": "llama", "a": {nested}}}'.encode(), "config.json")


def test_a_deeply_nested_plan_is_refused_however_deep_the_caller_stands(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    content = {"plan_format": 1, "x": nested}
    content = {"plan_format": 1, "file_sha256": file_sha256_of(content), "x": nested}
    (tmp_path / "plan.json").write_text(json.dumps(content, indent=2) + "\n")
    limit = sys.getrecursionlimit()
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    for spare in (100, 200, 320, 400, 700):
        sys.setrecursionlimit(depth + spare)
        try:
            with pytest.raises(CorruptPlanError):
                read_plan(tmp_path / "plan.json")
        finally:
            sys.setrecursionlimit(limit)


STEERING = "\x1b[31m\x1b]0;owned\x07\u202e\x9b2J"


def test_no_name_steers_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path(f"m{STEERING}")
    folder.mkdir()
    config = dict(resolve_model("meta-llama/Llama-3.1-8B", online=False).config)
    write_config(folder, config | {"architectures": [STEERING]})
    data, bad = Path(f"d{STEERING}.jsonl"), Path(f"b{STEERING}.jsonl")
    data.write_text(json.dumps({"text": STEERING, STEERING: 1}) + "\n")
    bad.write_text(json.dumps({STEERING: STEERING}) + "\n")
    plan, place = f"p{STEERING}.json", ["--memory", "24GiB"]
    setup = [str(folder), "--method", "lora", "--data"]
    lines = [
        ["estimate", *setup, str(data), *place],
        ["estimate", *setup, str(bad), *place],
        ["estimate", str(folder), STEERING],
        ["plan", *setup, str(data), *place, "--output-dir", f"o{STEERING}", "-o", plan],
        ["explain", plan],
        ["export", plan, "--to", "script"],
        ["runs", plan],
        ["models", STEERING],
        ["devices", STEERING],
        [STEERING],
    ]
    codes = [run_command(line) for line in lines]
    printed = capsys.readouterr()
    assert (codes[0], codes[3], codes[4]) == (0, 0, 0), printed.err
    steers = {one for one in printed.out + printed.err if one != "\n" and not one.isprintable()}
    assert steers == set()
    assert "x1b" in printed.out + printed.err


TOKENS = {"HF_TOKEN": "hf_" + "abcdefghijklmnopqrstuvwxyz", "WANDB_API_KEY": "correct-horse-battery"}


def test_no_token_of_the_environment_is_in_a_plan_an_export_or_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, token in TOKENS.items():
        monkeypatch.setenv(name, token)
    data, plan = tmp_path / "train.jsonl", tmp_path / "plan.json"
    data.write_text('{"text": "one"}\n')
    config = dict(resolve_model("meta-llama/Llama-3.1-8B", online=False).config)
    setup = [str(write_config(tmp_path, config)), "--method", "qlora", "--memory", "24GiB"]
    assert run_command(["plan", *setup, "--data", str(data), "-o", str(plan)]) == 0
    for engine in ("script", "slurm", "axolotl", "llamafactory", "trl"):
        run_command(["export", str(plan), "--to", engine, "-o", str(tmp_path / engine)])
    run_command(["estimate", *setup, "--json"])
    run_command(["explain", str(plan), "--json"])
    printed = capsys.readouterr()
    written = [
        path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.suffix not in ("", ".safetensors")
    ]
    assert len(written) > 6
    assert [token for token in TOKENS.values() for text in (*written, printed.out, printed.err) if token in text] == []


def test_no_child_process_imports_from_the_folder_it_is_started_in() -> None:
    """``python -m`` puts the current folder first in sys.path: a model's folder with a json.py would be run."""
    unsafe = []
    for path in [file for part in ("planner", "executor", "tui") for file in (REPOSITORY / part).rglob("*.py")]:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "sys.executable" in line and '"-m"' in line and '"-P"' not in line:
                unsafe.append(f"{path.name}: {line.strip()}")
    assert unsafe == []


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_KNOWN = st.sampled_from(
    ["model_type", "llama", "gpt2", "hidden_size", "num_hidden_layers", "layer_types", "rope_scaling", "text_config",
     "dtype", "F32", "shape", "data_offsets", "weight_map", "plan_format", "file_sha256", "files", "step", "text",
     "messages", "role", "content", "prompt", "completion", "event", "failed", "message", "quantization_config"]
)  # fmt: skip
_near_json = st.recursive(
    _json | _KNOWN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KNOWN | st.text(max_size=4), inner, max_size=6),
    max_leaves=20,
)
_bytes = st.binary(max_size=200) | _near_json.map(lambda value: json.dumps(value).encode())


@pytest.mark.parametrize("name", TARGETS)
@given(data=_bytes)
@example(data=b"\xff\xfe")
@example(data=b"[" * 100_000)
@example(data=b'{"a":' * 100_000)
@example(data=b"9" * 5000)
@settings(max_examples=60, deadline=None)
def test_a_reader_answers_any_bytes_or_refuses_them_with_our_error(name: str, data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vramplan.planner.adapters.transformers_weights.transformers_installed", lambda: False)
        patch.setattr("vramplan.planner.adapters.model_files.transformers_installed", lambda: False)
        run(name, data)


@pytest.mark.parametrize("name", TARGETS)
def test_what_fuzzing_reached_is_answered_still(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vramplan.planner.adapters.transformers_weights.transformers_installed", lambda: False)
    monkeypatch.setattr("vramplan.planner.adapters.model_files.transformers_installed", lambda: False)
    kept = sorted((REPOSITORY / "fuzz" / "corpus" / name).iterdir())
    assert kept
    for path in kept:
        run(name, path.read_bytes())
