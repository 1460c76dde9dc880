"""Tensor names, dtypes and shapes from safetensors headers: the file's first bytes, never its data.

A file is an 8-byte little-endian length, that many bytes of JSON, then the tensors
(github.com/huggingface/safetensors, README, Format). Every length and offset is checked before it is believed.
"""

import json
import struct
from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from vramplan.planner.adapters.inside import leads_outside, outside_words
from vramplan.planner.errors import BadConfigError

MAX_HEADER_BYTES = 100_000_000
"""The safetensors library's own limit (safetensors/src/tensor.rs, MAX_HEADER_SIZE)."""

MAX_INDEX_BYTES = 100_000_000
MAX_SHARDS = 10_000
MAX_DIMENSIONS = 64
"""Of one tensor; torch reduces over no more (aten/src/ATen/WrapDimUtilsMulti.h, dim_bitset_size)."""
MAX_NAME_CHARACTERS = 1_000
ONE_FILE, INDEX = "model.safetensors", "model.safetensors.index.json"

BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8, "BOOL": 8,
}  # fmt: skip
"""Bits of each dtype the format knows."""


class TensorInfo(NamedTuple):
    """One stored tensor: its dtype under safetensors' name, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Elements as stored; packed formats hold several weights in one."""
        return prod(self.shape)


def read_folder_headers(folder: Path) -> dict[str, TensorInfo] | None:
    """Every tensor of a checkpoint folder, from one file or an index and its shards; None: no safetensors there.

    Raises:
        BadConfigError: a header, the index or a shard is broken or missing.
    """
    index = folder / INDEX
    if index.is_file():
        _stays(folder, index)
        if index.stat().st_size > MAX_INDEX_BYTES:
            raise _bad(index.name, "is larger than 100 MB")
        return _read_shards(folder, shards_of_index(index.read_bytes()))
    single = folder / ONE_FILE
    if not single.is_file():
        return None
    _stays(folder, single)
    return read_header(single)


def read_header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of one safetensors file.

    Raises:
        BadConfigError: the file is truncated, or its header is too long, not JSON or inconsistent.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise _bad(path.name, "is too short to be safetensors")
        (length,) = struct.unpack("<Q", head)
        if length > min(MAX_HEADER_BYTES, size - 8):
            raise _bad(path.name, f"claims a header of {length:,} bytes; the file has {size:,} and the limit is 100 MB")
        content = file.read(length)
    return parse_header(content, path.name, size - 8 - length)


def parse_header(content: bytes, where: str, data_bytes: int | None) -> dict[str, TensorInfo]:
    """A header's JSON as tensors.

    Args:
        data_bytes: bytes that follow the header; None when they are not known.

    Raises:
        BadConfigError: naming the tensor that makes no sense.
    """
    header = _json_object(content, where)
    tensors: dict[str, TensorInfo] = {}
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name] = _tensor(name, entry, where, data_bytes)
    return tensors


def _tensor(name: str, entry: Any, where: str, data_bytes: int | None) -> TensorInfo:
    if not isinstance(entry, dict):
        raise _bad(where, f"describes {name[:80]!r} by something other than an object")
    dtype: Any = entry.get("dtype")
    shape: Any = entry.get("shape")
    offsets: Any = entry.get("data_offsets")
    check_tensor(name, dtype, shape, where)
    if not _whole_numbers(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _bad(where, f"gives {name[:80]!r} the offsets {str(offsets)[:60]}")
    if offsets[1] - offsets[0] != -(-prod(shape) * BITS[dtype] // 8):
        raise _bad(
            where, f"gives {name[:80]!r} {offsets[1] - offsets[0]:,} bytes, which is not its shape times {dtype}"
        )
    if data_bytes is not None and offsets[1] > data_bytes:
        raise _bad(where, f"ends {name[:80]!r} beyond the end of the file: the download is incomplete")
    return TensorInfo(dtype, tuple(shape))


def check_tensor(name: str, dtype: Any, shape: Any, where: str) -> None:
    """Refuse a name no tensor has, a dtype the format does not know, or a shape that is none.

    Raises:
        BadConfigError: naming the tensor.
    """
    if len(name) > MAX_NAME_CHARACTERS:
        raise _bad(where, f"has a tensor whose name has {len(name):,} characters: {name[:80]!r}")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(where, f"stores {name[:80]!r} as {str(dtype)[:20]!r}, a dtype safetensors does not have")
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise _bad(where, f"gives {name[:80]!r} the shape {str(shape[:9] if isinstance(shape, list) else shape)[:60]}")


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def shards_of_index(content: bytes, where: str = INDEX) -> list[str]:
    """The files an index names, each a plain name beside it.

    Raises:
        BadConfigError: the index is broken, or names a file elsewhere.
    """
    weight_map = _json_object(content, where).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(shard, str) for shard in weight_map.values()):
        raise _bad(where, "has no weight_map of tensor to file")
    shards = sorted(set(weight_map.values()))
    if len(shards) > MAX_SHARDS:
        raise _bad(where, f"names {len(shards):,} files; the limit is {MAX_SHARDS:,}")
    for shard in shards:
        if not shard or Path(shard).name != shard or "\\" in shard or "\0" in shard:
            raise _bad(where, f"names {shard[:80]!r}, which is not a file beside it")
    return shards


def _read_shards(folder: Path, shards: Iterable[str]) -> dict[str, TensorInfo]:
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        path = folder / shard
        if not path.is_file():
            raise _bad(INDEX, f"names {shard[:80]!r}, which is not in the folder: the download is incomplete")
        _stays(folder, path)
        tensors |= read_header(path)
    return tensors


def _stays(folder: Path, path: Path) -> None:
    if leads_outside(folder, path):
        raise BadConfigError(
            f"{path.name[:80]!r} {outside_words(path)}", remedy="put the file itself into the model's folder"
        )


def _json_object(content: bytes, where: str) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        raise _bad(where, "has a header that is not JSON") from None
    if not isinstance(found, dict):
        raise _bad(where, "has a header that is not a JSON object")
    return found


def _bad(where: str, what: str) -> BadConfigError:
    return BadConfigError(f"{where} {what}", remedy="download the checkpoint again")
