"""Bytes to text and back. Text is always GiB or MiB (1024-based); bytes are always int."""

import re

KIB = 1024
MIB = 1024**2
GIB = 1024**3

_UNITS = {
    "": 1,
    "b": 1,
    "kib": KIB,
    "mib": MIB,
    "gib": GIB,
    "tib": 1024**4,
    "k": KIB,
    "m": MIB,
    "g": GIB,
    "t": 1024**4,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


def format_bytes(size_bytes: int) -> str:
    """Bytes as text: GiB above one GiB, else MiB, KiB or B.

    >>> format_bytes(6_442_450_944)
    '6.00 GiB'
    >>> format_bytes(-1536)
    '-1.50 KiB'
    """
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if abs(size_bytes) >= unit:
            return f"{size_bytes / unit:.2f} {name}"
    return f"{size_bytes} B"


def format_gib(size_bytes: int) -> str:
    """Bytes as a bare GiB number for a table column whose head names the unit.

    >>> format_gib(1_610_612_736)
    '1.50'
    """
    return f"{size_bytes / GIB:.2f}"


def parse_bytes(text: str) -> int:
    """Read a size such as ``12GiB``, ``500 MB`` or ``1073741824``.

    Raises:
        ValueError: the text is not a number followed by a known unit.

    >>> parse_bytes("12GiB")
    12884901888
    >>> parse_bytes("1 GB")
    1000000000
    """
    match = _SIZE.fullmatch(text)
    unit = _UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None:
        raise ValueError(f"{text!r} is not a size; write for example 12GiB or 500MB")
    return int(float(match.group(1)) * unit)


def format_count(count: int) -> str:
    """A parameter count as people write it.

    >>> format_count(8_030_261_248)
    '8.03 B'
    >>> format_count(41_943_040)
    '41.9 M'
    """
    if count >= 10**9:
        return f"{count / 10**9:.2f} B"
    if count >= 10**6:
        return f"{count / 10**6:.1f} M"
    if count >= 10**3:
        return f"{count / 10**3:.1f} K"
    return str(count)
