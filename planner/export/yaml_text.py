"""YAML that parsers of either version read the same way: every string in double quotes or as a block, ASCII alone."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any


def yaml_text(content: Mapping[str, Any], *comments: str) -> str:
    """A document.

    Args:
        content: strings, numbers, booleans, None, lists and string-keyed mappings of those.
        comments: lines put before it; each stays one line whatever it holds.
    """
    head = [f"# {inert(comment)}".rstrip() for comment in comments]
    return "\n".join([*head, *_mapping(content, "")]) + "\n"


def inert(text: str) -> str:
    """Text that cannot leave its line or steer a terminal: everything outside printable ASCII is written out.

    >>> inert("a\\nb")
    'a\\\\nb'
    """
    return "".join(one if " " <= one <= "~" else one.encode("unicode_escape").decode() for one in text)


def quoted(text: str) -> str:
    """A double-quoted scalar.

    >>> quoted('say "hi"\\t\\x85')
    '"say \\\\"hi\\\\"\\\\x09\\\\x85"'
    """
    return '"' + "".join(_character(one) for one in text) + '"'


def _character(one: str) -> str:
    if one in '"\\':
        return "\\" + one
    code = ord(one)
    if 0x20 <= code < 0x7F:
        return one
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _mapping(content: Mapping[str, Any], indent: str) -> Iterator[str]:
    for key, value in content.items():
        name = key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else quoted(key)
        yield from _entry(f"{indent}{name}:", value, indent)


def _entry(start: str, value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        yield start
        yield from _mapping(value, indent + "  ")
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        yield start
        for item in value:
            yield from _item(item, indent + "  ")
    elif _is_block(value):
        yield f"{start} |"
        yield from (f"{indent}  {line}".rstrip() for line in value.splitlines())
    else:
        yield f"{start} {_scalar(value)}"


def _is_block(value: Any) -> bool:
    """Whether a text of several lines can stand as it is: lines that say all there is to them."""
    if not isinstance(value, str) or not value.endswith("\n") or value.endswith("\n\n"):
        return False
    lines = value.split("\n")[:-1]
    steady = all(" " <= one <= "~" or one == "\n" for one in value)
    return steady and lines[0].strip() == lines[0] != "" and all(line.rstrip() == line for line in lines)


def _item(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping) and value:
        first, *rest = _mapping(value, indent + "  ")
        yield f"{indent}- {first.strip()}"
        yield from rest
    else:
        yield from _entry(f"{indent}-", value, indent)


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, float):
        # 2e-05 is a string to a YAML 1.1 parser: it wants the point
        return repr(value) if "e" not in repr(value) or "." in repr(value) else repr(value).replace("e", ".0e")
    if isinstance(value, Mapping):
        return "{}"
    return "[]" if isinstance(value, Sequence) else json.dumps(value)
