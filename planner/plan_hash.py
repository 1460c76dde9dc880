"""The two hashes of a plan: has the file moved (``file_sha256``), and is this the same plan (``fingerprint``).

Canonical JSON: keys sorted, no spaces, ASCII escapes, no NaN or infinity. Both hashes are sha256, in hex.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

READINGS: tuple[tuple[str, ...], ...] = (
    ("tool_version",),
    ("created_at",),
    ("verdict",),
    ("device", "free_bytes"),
    ("device", "read_at"),
    ("device", "holders"),
    ("device", "uuid"),
    ("device", "index"),
    ("device", "driver_version"),
    ("program", "origin"),
    ("later_stages", "verdict"),
    ("later_stages", "program", "origin"),
    ("fingerprint",),
    ("file_sha256",),
)
"""What may differ between two writings of the same plan: moments, the card's serial, where a program came from,
and the verdict, which follows from the bytes that were free at that moment."""


def canonical_json(content: Any) -> str:
    """The one way to write a value.

    Raises:
        ValueError: the value holds NaN or an infinity.

    >>> canonical_json({"b": 1, "a": [True, None, "é"]})
    '{"a":[true,null,"\\\\u00e9"],"b":1}'
    """
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def sha256_of(content: Any) -> str:
    """sha256 of a value's canonical JSON, in hex."""
    return hashlib.sha256(canonical_json(content).encode()).hexdigest()


def file_sha256_of(content: Mapping[str, Any]) -> str:
    """The hash over everything a plan file holds, but for the hash itself."""
    return sha256_of({key: value for key, value in content.items() if key != "file_sha256"})


def fingerprint_of(content: Mapping[str, Any]) -> str:
    """The identity of a plan: the hash of its content (as JSON values) without readings."""
    return sha256_of(_without(content, READINGS))


def _without(content: Mapping[str, Any], paths: tuple[tuple[str, ...], ...]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in content.items():
        inner = tuple(path[1:] for path in paths if path[0] == key)
        if () in inner:
            continue
        if inner and isinstance(value, list):
            kept[key] = [_without(each, inner) if isinstance(each, Mapping) else each for each in value]
        else:
            kept[key] = _without(value, inner) if inner and isinstance(value, Mapping) else value
    return kept
