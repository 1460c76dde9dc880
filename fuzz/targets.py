"""What is fuzzed: each target takes bytes and returns; our own errors are an answer, anything else is a finding."""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from vramplan.executor.checkpoints import SEAL, checked
from vramplan.executor.events import parse_event
from vramplan.planner.adapters import transformers_weights
from vramplan.planner.adapters.datasets import read_rows
from vramplan.planner.adapters.model_files import model_from_files, weights_from_headers
from vramplan.planner.adapters.plan_files import read_plan, read_report
from vramplan.planner.adapters.safetensors_headers import parse_header, read_header, shards_of_index
from vramplan.planner.adapters.trainer_configs import read_trainer_config
from vramplan.planner.cli.render import plain
from vramplan.planner.config_check import parse_config
from vramplan.planner.errors import MissingExtraError, VramplanError
from vramplan.planner.memory.alloc_conf import parse_alloc_conf
from vramplan.planner.oom import findings, read_message
from vramplan.planner.units import parse_bytes

STEERING = frozenset(map(chr, (*range(32), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))))
"""What no terminal may be sent: the controls of ECMA-48, and the overrides and isolates of Unicode's UAX 9."""
ENDINGS = (".jsonl", ".json", ".csv", ".tsv")
_FOLDER = Path(tempfile.mkdtemp(prefix="vramplan-fuzz-"))


def config(data: bytes) -> None:
    """config.json, as far as weights are counted without transformers."""
    parsed = parse_config(data, "config.json")
    with suppress(MissingExtraError):
        model_from_files(parsed, None, repo_id="fuzz", source="folder")


def header(data: bytes) -> None:
    """A safetensors header, by itself and as the start of a file, to the weights it tells."""
    with suppress(VramplanError):
        read_header(_file("model.safetensors", data))
    weights_from_headers(parse_header(data, "model.safetensors", None), {"model_type": "gpt2"})


def index(data: bytes) -> None:
    """model.safetensors.index.json."""
    shards_of_index(data)


def plan(data: bytes) -> None:
    """A plan file, then the same bytes as a run's report."""
    path = _file("plan.json", data)
    with suppress(VramplanError):
        read_plan(path)
    read_report(path)


def seal(data: bytes) -> None:
    """The seal of a checkpoint."""
    _file(SEAL, data)
    checked(_FOLDER, "0" * 64)


def event(data: bytes) -> None:
    """A line of a worker."""
    parse_event(data.decode("utf-8", "replace"))


def dataset(data: bytes) -> None:
    """Training rows; the first byte chooses the format."""
    ending = ENDINGS[data[0] % len(ENDINGS)] if data else ENDINGS[0]
    read_rows(_file(f"rows{ending}", data[1:]))


def words(data: bytes) -> None:
    """What a person types: sizes and allocator settings; and what is printed of it."""
    text = data.decode("utf-8", "replace")
    assert STEERING.isdisjoint(plain(text))
    with suppress(ValueError, OverflowError):
        parse_bytes(text)
    parse_alloc_conf(text)


def trainer_config(data: bytes) -> None:
    """A config of TRL, Axolotl or LLaMA-Factory."""
    imported = read_trainer_config(_file("train.yaml", data))
    assert STEERING.isdisjoint(plain(str(imported)))


def oom(data: bytes) -> None:
    """What PyTorch printed as a run died."""
    told = read_message(data.decode("utf-8", "replace"))
    assert all(STEERING.isdisjoint(plain(line)) for line in findings(told))


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (config, header, index, plan, seal, event, dataset, words, trainer_config, oom)
}


def run(name: str, data: bytes) -> None:
    """One input for one target.

    Raises:
        Exception: a finding.
    """
    with suppress(VramplanError):
        TARGETS[name](data)


def without_transformers() -> None:
    """Count as if transformers were not installed: asking it takes seconds and is not what is fuzzed."""
    transformers_weights.transformers_installed = lambda: False


def _file(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.write_bytes(data)
    return path
